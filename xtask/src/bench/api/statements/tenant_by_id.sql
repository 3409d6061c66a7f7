-- store::tenants::get
SELECT id, slug, name, names, status, zones, classification, retention, delete_protection, revision, created_at
FROM tenants WHERE id = bench.id(0, :t, 0) AND status <> 'deleted';
