-- Most changes of what is scheduled end nothing. PostgreSQL writes no index for
-- an update that changes no column of any, those of its condition included, and
-- finds room beside the old row: so conditions name what only an end changes.
ALTER TABLE workloads
    ADD COLUMN ended boolean NOT NULL GENERATED ALWAYS AS (state = 'ended') STORED,
    SET (fillfactor = 60);
DROP INDEX workloads_open, workloads_endpoint, workloads_job;
CREATE INDEX workloads_open ON workloads (created_at) WHERE NOT ended;
CREATE INDEX workloads_endpoint ON workloads (tenant_id, endpoint_id) WHERE NOT ended;
CREATE INDEX workloads_job ON workloads (tenant_id, job_id) WHERE NOT ended;

ALTER TABLE placements SET (fillfactor = 70);
DROP INDEX placements_one_live, placements_worker;
CREATE UNIQUE INDEX placements_one_live ON placements (workload_id) WHERE ended_at IS NULL;
CREATE INDEX placements_worker ON placements (worker_id) WHERE ended_at IS NULL;
-- As it was, with when each ended.
CREATE OR REPLACE VIEW quota_uses WITH (security_invoker = true) AS
    SELECT p.id AS placement_id, p.state, t.id AS tenant_id, COALESCE(n.id, t.id) AS leaf_id, w.class, r.resource,
        CASE r.resource WHEN 'milli' THEN w.milli ELSE w.memory_bytes END AS amount,
        p.ended_at
    FROM placements p
    JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
    JOIN quota_nodes t ON t.id = p.tenant_id
    LEFT JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
    LEFT JOIN jobs j ON j.tenant_id = w.tenant_id AND j.id = w.job_id
    LEFT JOIN quota_nodes n ON n.id = COALESCE(e.project_id, j.project_id)
        AND NOT EXISTS (SELECT FROM projects x WHERE x.tenant_id = n.tenant_id AND x.id = n.project AND x.deleted_at IS NOT NULL)
    CROSS JOIN (VALUES ('milli'), ('memory_bytes')) AS r (resource)
    WHERE r.resource = 'milli' OR EXISTS (SELECT FROM quota_cells c WHERE c.node_id = t.id AND c.class = w.class
        AND c.resource = r.resource AND c.listed);

ALTER TABLE devices SET (fillfactor = 50);
ALTER TABLE quota_cells SET (fillfactor = 50);

-- The end of jobs is looked for all the time, among all that wait: by indexes
-- that hold nothing else.
CREATE INDEX jobs_ending ON jobs (created_at) WHERE state IN ('finalizing', 'cancelling');
CREATE INDEX job_chunks_exhausted ON job_chunks (job_id, index) WHERE state = 'waiting' AND attempts >= 5;
