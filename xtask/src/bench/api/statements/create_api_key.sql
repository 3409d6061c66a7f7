-- store::keys::create
INSERT INTO api_keys (id, tenant_id, project_id, principal_id, name, prefix, key_hash, role,
  endpoints, actions, networks, rotated_from, created_at, expires_at)
VALUES (bench.fresh(), bench.id(0, :t, 0), bench.id(1, :t, 0), NULL, 'Made by the peer', 'chy_000000',
  sha256(('peer' || :n::bigint)::bytea), 'developer', NULL, NULL, NULL, NULL, now(), NULL)
RETURNING id, tenant_id, project_id, principal_id, name, prefix, role, endpoints, actions, networks,
  rotated_from, created_at, expires_at, revoked_at, last_used_at;
