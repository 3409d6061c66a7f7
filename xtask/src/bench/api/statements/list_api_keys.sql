-- store::keys::list
SELECT id, tenant_id, project_id, principal_id, name, prefix, role, endpoints, actions, networks,
  rotated_from, created_at, expires_at, revoked_at, last_used_at
FROM api_keys WHERE id <= :to /*own api_keys*/ ORDER BY id DESC LIMIT 51;
