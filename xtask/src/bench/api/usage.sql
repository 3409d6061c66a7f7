-- A part of the usage rows. Variables: tenants, part, parts.
SET session_replication_role = replica;
INSERT INTO usage (id, tenant_id, project_id, key_id, endpoint_id, request_id, model, version_digest,
        prompt_tokens, completion_tokens, accelerator_ms, at)
    SELECT bench.id(7, t, k), bench.id(0, t, 0), bench.project(t, k), bench.id(5, t, k % 10), bench.id(2, t, k % 50),
        bench.id(7, t, k), 'endpoint-' || k % 5, sha256('catalogue'), 100 + k % 100, 50 + k % 50, 700, bench.at(7, t, k)
    FROM bench.part(7, :tenants, :part, :parts);
