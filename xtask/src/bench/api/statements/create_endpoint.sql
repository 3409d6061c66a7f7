-- store::endpoints::create
INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at)
VALUES (bench.fresh(), bench.id(0, :t, 0), bench.id(1, :t, 0), 'peer-' || :n::bigint, '01900000-0000-7000-8000-00000000000b', 1, 'cpu', 1000000000, 500, now());
