-- store::tenants::get
SELECT id, slug, name, created_at FROM tenants WHERE id = bench.id(0, :t, 0);
