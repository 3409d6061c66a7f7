-- store::projects::create
INSERT INTO projects (id, tenant_id, slug, name, limits, created_at)
VALUES (bench.fresh(), bench.id(0, :t, 0), 'peer-' || :n::bigint, 'Made by the peer', '{}', now())
RETURNING id, tenant_id, slug, name, limits, revision, created_at;
