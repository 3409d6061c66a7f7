-- store::principals::get
SELECT id, tenant_id, login, display_name, role, created_at FROM principals WHERE id = bench.id(8, :t, 0);
