-- Everything but usage, in one go. Variables: tenants. Run by the superuser;
-- what foreign keys and triggers would check holds by construction.
SET session_replication_role = replica;

INSERT INTO tenants (id, slug, name, created_at)
    SELECT bench.id(0, t, 0), 'ministry-' || lpad(t::text, 4, '0'), 'Ministry ' || t, bench.at(0, t, 0)
    FROM generate_series(1, :tenants) AS t;
INSERT INTO projects (id, tenant_id, slug, name, created_at)
    SELECT bench.id(1, t, k), bench.id(0, t, 0), 'project-' || lpad(k::text, 4, '0'), 'Project ' || k, bench.at(1, t, k)
    FROM bench.part(1, :tenants, 0, 1);
INSERT INTO principals (id, tenant_id, login, display_name, role, created_at)
    SELECT bench.id(8, t, 0), bench.id(0, t, 0), 'admin@ministry-' || lpad(t::text, 4, '0'), 'Administrator ' || t,
        'tenant_admin', bench.at(8, t, 0)
    FROM generate_series(1, :tenants) AS t;
INSERT INTO principals (id, tenant_id, login, display_name, role, created_at)
    VALUES (bench.id(8, 0, 0), NULL, 'admin', 'Administrator', 'platform_admin', bench.at(8, 0, 0));
INSERT INTO models (id, tenant_id, name, created_at)
    VALUES ('01900000-0000-7000-8000-00000000000a', NULL, 'catalogue', bench.at(0, 0, 0));
INSERT INTO model_versions (id, model_id, tenant_id, digest, manifest, created_at)
    VALUES ('01900000-0000-7000-8000-00000000000b', '01900000-0000-7000-8000-00000000000a', NULL, sha256('catalogue'),
        jsonb_build_object('format', 'gguf', 'files', jsonb_build_array(jsonb_build_object(
            'path', 'm.gguf', 'sha256', encode(sha256('catalogue'), 'hex'), 'bytes', 1000))), bench.at(0, 0, 0));
INSERT INTO workers (id, name, pool, zone, address, credential_hash, live, seen_at, created_at)
    SELECT bench.id(0, 0, w), 'worker-' || lpad(w::text, 4, '0'), 'default', 'here', 'http://127.0.0.1:9', sha256(('worker' || w)::bytea),
        false, bench.at(0, 0, 0), bench.at(0, 0, 0)
    FROM generate_series(1, 100) AS w;
INSERT INTO devices (id, worker_id, ordinal, class, memory_bytes, milli)
    SELECT bench.id(1, 0, w * 8 + d), bench.id(0, 0, w), d, 'cpu', 80000000000, 1000
    FROM generate_series(1, 100) AS w, generate_series(0, 7) AS d;
INSERT INTO api_keys (id, tenant_id, project_id, name, prefix, key_hash, created_at)
    SELECT bench.id(5, t, k), bench.id(0, t, 0), bench.project(t, k), 'key ' || k, 'chy_000000',
        sha256((t || '-' || k)::bytea), bench.at(5, t, k)
    FROM bench.part(5, :tenants, 0, 1);
INSERT INTO endpoints (id, tenant_id, project_id, name, version_id, replicas, class, memory_bytes, milli, created_at)
    SELECT bench.id(2, t, k), bench.id(0, t, 0), bench.project(t, k), 'endpoint-' || k, '01900000-0000-7000-8000-00000000000b',
        1, 'cpu', 1000000000, 500, bench.at(2, t, k)
    FROM bench.part(2, :tenants, 0, 1);
-- A replica of each; most wait, as no worker here is alive.
INSERT INTO workloads (id, tenant_id, endpoint_id, version_id, class, memory_bytes, milli, state, reason, epoch, created_at)
    SELECT bench.id(2, t, k), bench.id(0, t, 0), bench.id(2, t, k), '01900000-0000-7000-8000-00000000000b', 'cpu',
        1000000000, 500, 'pending', 'no live worker has a device of class cpu', 1, bench.at(2, t, k)
    FROM bench.part(2, :tenants, 0, 1);
INSERT INTO files (id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at)
    SELECT bench.id(4, t, k), bench.id(0, t, 0), bench.project(t, k), 'batch', 'batch-' || k || '.jsonl', 1000,
        sha256('input'), bench.at(4, t, k)
    FROM bench.part(4, :tenants, 0, 1);
-- Every tenth waits, the others have ended.
INSERT INTO jobs (id, tenant_id, project_id, operation, model, version_id, class, memory_bytes, milli, state,
        total_lines, completed_lines, input_file_id, created_at, finalizing_at, ended_at)
    SELECT bench.id(3, t, k), bench.id(0, t, 0), bench.project(t, k), '/v1/chat/completions', 'catalogue',
        '01900000-0000-7000-8000-00000000000b', 'cpu', 1000000000, 500,
        CASE WHEN k % 10 = 0 THEN 'in_progress' ELSE 'completed' END, 10, CASE WHEN k % 10 = 0 THEN 0 ELSE 10 END,
        bench.id(4, t, k), bench.at(3, t, k),
        CASE WHEN k % 10 <> 0 THEN bench.at(3, t, k) + interval '1 min' END,
        CASE WHEN k % 10 <> 0 THEN bench.at(3, t, k) + interval '1 min' END
    FROM bench.part(3, :tenants, 0, 1);
INSERT INTO job_chunks (tenant_id, job_id, index, first_line, lines, first_byte, bytes)
    SELECT bench.id(0, t, 0), bench.id(3, t, k), 0, 0, 10, 0, 1000
    FROM bench.part(3, :tenants, 0, 1) WHERE k % 10 = 0;
INSERT INTO audit_events (id, tenant_id, at, actor, action, object, verdict, detail)
    SELECT bench.id(6, t, k), bench.id(0, t, 0), bench.at(6, t, k), 'principal:' || bench.id(8, t, 0),
        'create_endpoint', 'endpoint:' || bench.id(2, t, k % 50), 'allowed', '{"name": "endpoint", "replicas": 1}'
    FROM bench.part(6, :tenants, 0, 1);
