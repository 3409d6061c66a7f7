-- store::idempotency::keep
INSERT INTO idempotent_answers (key_hash, tenant_id, fingerprint, status, answer, created_at)
VALUES (sha256((:i::bigint)::text::bytea), bench.id(0, :t, 0), sha256((:i::bigint)::text::bytea), 201, convert_to(repeat('a', 600), 'UTF8'), now());
