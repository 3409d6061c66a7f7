-- store::endpoints::select, of get and list
SELECT e.id, e.tenant_id, e.project_id, e.name, e.version_id, m.name AS model, v.digest, e.replicas,
  e.class, e.memory_bytes, e.milli, e.revision, e.created_at, s.ready, s.placed, s.known, s.waits, s.fails
FROM endpoints e
JOIN model_versions v ON v.id = e.version_id
JOIN models m ON m.id = v.model_id
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE p.state = 'ready') AS ready,
    count(p.id) AS placed,
    count(*) AS known,
    (array_agg(w.reason ORDER BY w.created_at, w.id) FILTER (WHERE w.state = 'pending' AND w.reason IS NOT NULL))[1] AS waits,
    (array_agg(p.detail ORDER BY w.created_at, w.id) FILTER (WHERE p.state = 'assigned' AND p.detail IS NOT NULL))[1] AS fails
  FROM workloads w
  LEFT JOIN placements p ON p.workload_id = w.id AND p.generation = w.generation AND p.state IN ('assigned', 'ready')
  WHERE w.tenant_id = e.tenant_id AND w.endpoint_id = e.id AND w.state <> 'ended'
) s
WHERE e.deleted_at IS NULL AND e.id BETWEEN /*from*/ AND /*to*/ /*own e*/
ORDER BY e.id DESC LIMIT /*limit*/;
