-- store::principals::get
SELECT id, tenant_id, kind, login, display_name, role, provider_id, must_change_password,
  totp_confirmed_at, disabled_at, signed_in_at, revision, created_at
FROM principals WHERE id = bench.id(8, :t, 0);
