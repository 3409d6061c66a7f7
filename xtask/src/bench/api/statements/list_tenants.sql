-- store::tenants::list
SELECT id, slug, name, created_at FROM tenants WHERE slug > :after ORDER BY slug LIMIT 51;
