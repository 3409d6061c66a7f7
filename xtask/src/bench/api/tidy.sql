-- What a run made has ids of today; what the generator made ends in October.
SET session_replication_role = replica;
SELECT (lpad(to_hex((1767225600000 + 25920000000 + 86400000)::bigint), 12, '0') || '70008000000000000000')::uuid AS cut \gset
DELETE FROM job_chunks WHERE job_id > :'cut';
DELETE FROM jobs WHERE id > :'cut';
DELETE FROM files WHERE id > :'cut';
DELETE FROM endpoints WHERE id > :'cut';
DELETE FROM api_keys WHERE id > :'cut';
DELETE FROM projects WHERE id > :'cut';
DELETE FROM audit_events WHERE id > :'cut';
DELETE FROM outbox;
DELETE FROM idempotent_answers;
-- A session that nobody uses for long would end.
UPDATE sessions SET last_seen_at = now();
VACUUM ANALYZE job_chunks, jobs, files, endpoints, api_keys, projects, audit_events, outbox, idempotent_answers, sessions;
