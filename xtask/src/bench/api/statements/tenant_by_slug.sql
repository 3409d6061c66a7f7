-- store::tenants::by_slug
SELECT id, slug, name, names, status, zones, classification, retention, delete_protection, revision, created_at
FROM tenants WHERE slug = 'ministry-' || lpad(:t::integer::text, 4, '0') AND status <> 'deleted';
