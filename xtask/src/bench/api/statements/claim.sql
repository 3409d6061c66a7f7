-- store::idempotency::claim
SELECT pg_try_advisory_xact_lock(:i::bigint) AS locked, a.fingerprint, a.status, a.answer
FROM (VALUES (1)) AS one LEFT JOIN idempotent_answers a ON a.key_hash = sha256((:i::bigint)::text::bytea);
