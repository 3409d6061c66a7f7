-- store::audit::record
INSERT INTO audit_events (id, tenant_id, at, actor, credential, action, object, verdict, policy, detail)
VALUES (bench.fresh(), bench.id(0, :t, 0), now(), 'principal:' || bench.id(8, :t, 0), 'session:' || bench.id(8, :t, 0),
  'write', 'object:' || bench.id(0, :t, 0), 'allowed', 'tenant-administrators-run-their-tenant @ 000000000000', '{"replicas": 1}');
