-- store::tenants::by_slug
SELECT id, slug, name, created_at FROM tenants WHERE slug = 'ministry-' || lpad(:t::integer::text, 4, '0');
