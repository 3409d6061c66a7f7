-- store::audit::list
SELECT id, tenant_id, at, actor, credential, action, object, verdict, policy, detail FROM audit_events
WHERE (bench.id(0, :t, 0) IS NULL OR tenant_id = bench.id(0, :t, 0)) AND id <= :to
ORDER BY id DESC LIMIT 51;
