-- store::workers::read, of a page
SELECT id, name, pool, zone, address, cordoned, live, seen_at, revision, created_at FROM workers
WHERE (nullif(:none, '-') IS NULL OR name = :none) AND (:after::text IS NULL OR name > :after)
ORDER BY name LIMIT 51;
-- store::workers::read_devices
SELECT id, worker_id, ordinal, class, memory_bytes, milli, used_memory_bytes, used_milli FROM devices
WHERE worker_id = ANY (ARRAY(SELECT bench.id(0, 0, w) FROM generate_series(1, 51) AS w)) ORDER BY worker_id, ordinal;
