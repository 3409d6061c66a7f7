-- store::workers::read, of one
SELECT id, name, pool, zone, address, cordoned, live, seen_at, revision, created_at FROM workers
WHERE (:w::integer IS NULL OR name = 'worker-' || lpad(:w::integer::text, 4, '0')) AND (nullif(:none, '-') IS NULL OR name > :none)
ORDER BY name LIMIT NULL;
-- store::workers::read_devices
SELECT id, worker_id, ordinal, class, memory_bytes, milli, used_memory_bytes, used_milli FROM devices
WHERE worker_id = ANY (ARRAY[bench.id(0, 0, :w)]) ORDER BY worker_id, ordinal;
