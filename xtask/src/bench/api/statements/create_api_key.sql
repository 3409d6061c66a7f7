-- store::keys::create
INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at, expires_at)
VALUES (bench.fresh(), bench.id(0, :t, 0), bench.id(1, :t, 0), 'Made by the peer', 'chy_000000', sha256(('peer' || :n::bigint)::bytea), now(), NULL);
