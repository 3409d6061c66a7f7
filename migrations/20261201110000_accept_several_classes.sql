-- Classes that will do besides the preferred one, the preferred first.
ALTER TABLE endpoints ADD COLUMN alternatives text[] NOT NULL DEFAULT '{}'
    CHECK (cardinality(alternatives) <= 15 AND class <> ALL (alternatives));
ALTER TABLE jobs ADD COLUMN alternatives text[] NOT NULL DEFAULT '{}'
    CHECK (cardinality(alternatives) <= 15 AND class <> ALL (alternatives));
ALTER TABLE workloads
    ADD COLUMN alternatives text[] NOT NULL DEFAULT '{}'
        CHECK (cardinality(alternatives) <= 15 AND class <> ALL (alternatives)),
    -- The class in which room is being made for it.
    ADD COLUMN promised_class text REFERENCES accelerator_classes;

-- What a placement is on, and why not on what its workload would rather have. One
-- from before is on the one class that its workload named.
ALTER TABLE placements
    ADD COLUMN class       text REFERENCES accelerator_classes,
    ADD COLUMN passed_over jsonb NOT NULL DEFAULT '[]';

-- The quota that counts is that of the class it is on.
CREATE OR REPLACE VIEW quota_uses WITH (security_invoker = true) AS
    SELECT p.id AS placement_id, p.state, t.id AS tenant_id, COALESCE(n.id, t.id) AS leaf_id,
        COALESCE(p.class, w.class) AS class, r.resource,
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
    WHERE r.resource = 'milli' OR EXISTS (SELECT FROM quota_cells c WHERE c.node_id = t.id
        AND c.class = COALESCE(p.class, w.class) AND c.resource = r.resource AND c.listed);

CREATE OR REPLACE FUNCTION note_endpoints() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'endpoint', id FROM (
        SELECT id, replicas, min_replicas, priority, version_id, class, alternatives, memory_bytes, milli, deleted_at
        FROM new_rows
        EXCEPT SELECT id, replicas, min_replicas, priority, version_id, class, alternatives, memory_bytes, milli, deleted_at
        FROM old_rows) changed;
    RETURN NULL;
END
$$;
