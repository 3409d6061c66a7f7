-- store::jobs::select, of get and list
SELECT j.id, j.tenant_id, j.project_id, j.operation, j.model, j.version_id, v.digest, j.state,
  j.total_lines, j.completed_lines, j.failed_lines, j.input_file_id, j.output_file_id,
  j.error_file_id, j.metadata, j.created_at, j.cancelling_at, j.finalizing_at, j.ended_at,
  s.reason, s.placement, s.detail
FROM jobs j
JOIN model_versions v ON v.id = j.version_id
LEFT JOIN LATERAL (
  SELECT w.reason, p.state AS placement, p.detail FROM workloads w
  LEFT JOIN placements p ON p.tenant_id = w.tenant_id AND p.workload_id = w.id AND p.state <> 'ended'
  WHERE w.tenant_id = j.tenant_id AND w.job_id = j.id AND w.state <> 'ended'
  ORDER BY p.state = 'ready' DESC NULLS LAST, w.created_at LIMIT 1
) s ON true
WHERE j.id BETWEEN /*from*/ AND /*to*/ /*own j*/
ORDER BY j.id DESC LIMIT /*limit*/;
