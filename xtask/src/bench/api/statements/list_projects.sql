-- store::projects::list
SELECT id, tenant_id, slug, name, limits, revision, created_at FROM projects
WHERE deleted_at IS NULL AND slug > :after /*own projects*/ ORDER BY slug LIMIT 51;
