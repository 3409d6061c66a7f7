-- store::jobs::position
SELECT (
  SELECT count(*) FROM (
    SELECT FROM jobs o
    WHERE o.tenant_id = j.tenant_id AND o.ended_at IS NULL AND o.state = 'in_progress' AND (o.created_at, o.id) < (j.created_at, j.id)
      AND NOT EXISTS (SELECT FROM workloads w
        WHERE w.tenant_id = o.tenant_id AND w.job_id = o.id AND w.state = 'placed')
    ORDER BY o.created_at LIMIT 1001
  ) ahead
) AS ahead
FROM jobs j
WHERE j.id = bench.id(3, :t, :k) AND j.state = 'in_progress'
  AND NOT EXISTS (SELECT FROM workloads w
    WHERE w.tenant_id = j.tenant_id AND w.job_id = j.id AND w.state = 'placed');
