-- store::models::by_name
SELECT id, tenant_id, name, created_at FROM models
WHERE (tenant_id IS NULL OR tenant_id = bench.id(0, :t, 0)) AND name = 'catalogue'
ORDER BY tenant_id NULLS LAST LIMIT 1;
-- store::models::version
SELECT v.id, v.model_id, v.tenant_id, m.name AS model, v.digest, v.manifest, v.created_at
FROM model_versions v JOIN models m ON m.id = v.model_id
WHERE v.model_id = '01900000-0000-7000-8000-00000000000a' AND (nullif(:none, '-') IS NULL OR v.digest = nullif(:none, '-')::bytea)
ORDER BY v.id DESC LIMIT 1;
-- store::accelerators::class_exists
SELECT EXISTS (SELECT FROM accelerator_classes WHERE name = 'cpu');
