-- store::tenants::list
SELECT id, slug, name, names, status, zones, classification, retention, delete_protection, revision, created_at
FROM tenants WHERE status <> 'deleted' AND slug > :after ORDER BY slug LIMIT 51;
