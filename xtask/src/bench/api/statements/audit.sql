-- store::audit::record
INSERT INTO audit_events (id, tenant_id, at, actor, action, object, verdict, detail)
VALUES (bench.fresh(), bench.id(0, :t, 0), now(), 'principal', 'write', 'object', 'allowed', '{"replicas": 1}');
