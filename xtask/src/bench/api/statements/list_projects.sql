-- store::projects::list
SELECT id, tenant_id, slug, name, created_at FROM projects
WHERE slug > :after /*own projects*/ ORDER BY slug LIMIT 51;
