-- Who may have how much of each accelerator class. A node is a cohort, a tenant
-- or a project, by its identifier; a tenant that has none is bound by devices
-- alone.
CREATE TABLE quota_nodes (
    id           uuid PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('cohort', 'tenant', 'project')),
    -- A cohort; of a project its tenant.
    parent_id    uuid,
    tenant_id    uuid REFERENCES tenants,
    -- Of a cohort.
    name         text,
    -- Share of what is lent, in thousandths.
    weight_milli integer NOT NULL DEFAULT 1000 CHECK (weight_milli >= 0),
    policies     jsonb NOT NULL DEFAULT '{}',
    revision     bigint NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL,
    project      uuid GENERATED ALWAYS AS (CASE WHEN kind = 'project' THEN id END) STORED,
    parent_kind  text GENERATED ALWAYS AS
        (CASE WHEN parent_id IS NULL THEN NULL WHEN kind = 'project' THEN 'tenant' ELSE 'cohort' END) STORED,
    CONSTRAINT quota_nodes_name UNIQUE (name),
    UNIQUE (id, kind),
    FOREIGN KEY (parent_id, parent_kind) REFERENCES quota_nodes (id, kind) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, project) REFERENCES projects,
    CHECK ((kind = 'cohort') = (tenant_id IS NULL)),
    CHECK ((kind = 'cohort') = (name IS NOT NULL)),
    CHECK ((kind = 'tenant') = (id IS NOT DISTINCT FROM tenant_id)),
    CHECK (kind <> 'project' OR parent_id IS NOT DISTINCT FROM tenant_id)
);
CREATE INDEX quota_nodes_parent ON quota_nodes (parent_id);
CALL isolate('quota_nodes');
GRANT SELECT ON quota_nodes TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON quota_nodes TO chancery_system;

-- What a node may use of a resource of a class, and uses. `subtree` and `local`
-- are derived from the whole tree whenever it is changed (store/src/quotas.rs).
-- `used` is kept by the trigger of placements, in the transaction that places
-- or ends, which refuses what no quota allows, whoever asks.
CREATE TABLE quota_cells (
    node_id         uuid NOT NULL REFERENCES quota_nodes ON DELETE CASCADE,
    tenant_id       uuid REFERENCES tenants,
    class           text NOT NULL REFERENCES accelerator_classes,
    resource        text NOT NULL CHECK (resource IN ('milli', 'memory_bytes')),
    -- Configured, if by 0, rather than only there for those below it.
    listed          boolean NOT NULL,
    nominal         bigint NOT NULL CHECK (nominal >= 0),
    lending_limit   bigint CHECK (lending_limit >= 0),
    borrowing_limit bigint CHECK (borrowing_limit >= 0),
    subtree         bigint NOT NULL CHECK (subtree >= 0),
    local           bigint NOT NULL CHECK (local >= 0),
    used            bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (node_id, class, resource),
    CONSTRAINT quota_cells_used CHECK (used >= 0)
);
CALL isolate('quota_cells');
GRANT SELECT ON quota_cells TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON quota_cells TO chancery_system;

-- Uses `amount` more (or, negative, less) of a resource at a node and above it.
-- A node's part that cannot be lent is its own; what it uses beyond that counts
-- at its parent too. Using less is never refused: quotas may have been cut.
CREATE FUNCTION use_quota(leaf uuid, class_name text, resource_name text, amount bigint) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    node uuid := leaf;
    rest bigint := amount;
    cell quota_cells;
    kind text;
    parent uuid;
BEGIN
    WHILE node IS NOT NULL AND rest <> 0 LOOP
        SELECT n.kind, n.parent_id INTO kind, parent FROM quota_nodes n WHERE n.id = node;
        UPDATE quota_cells c SET used = used + rest
            WHERE c.node_id = node AND c.class = class_name AND c.resource = resource_name RETURNING c.* INTO cell;
        IF FOUND THEN
            -- A root has nobody to borrow of, and a project borrows nothing.
            IF rest > 0 AND ((parent IS NULL OR kind = 'project') AND cell.used > cell.subtree
                OR cell.used > cell.subtree + cell.borrowing_limit
                OR kind = 'tenant' AND NOT cell.listed) THEN
                RAISE check_violation USING CONSTRAINT = 'quota_fits',
                    MESSAGE = format('%s %s has no quota left for %s %s', kind, node, class_name, resource_name);
            END IF;
            rest := greatest(0, cell.used - cell.local) - greatest(0, cell.used - rest - cell.local);
        ELSIF rest > 0 AND kind <> 'project' THEN
            RAISE check_violation USING CONSTRAINT = 'quota_fits',
                MESSAGE = format('%s %s has no quota for %s %s', kind, node, class_name, resource_name);
        END IF;
        node := parent;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION use_quota(uuid, text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION use_quota(uuid, text, text, bigint) TO chancery_system;

-- What each live placement counts: at its project's node or else its tenant's.
-- Memory counts where the tenant's quota lists it.
CREATE VIEW quota_uses WITH (security_invoker = true) AS
    SELECT p.id AS placement_id, p.state, t.id AS tenant_id, COALESCE(n.id, t.id) AS leaf_id, w.class, r.resource,
        CASE r.resource WHEN 'milli' THEN w.milli ELSE w.memory_bytes END AS amount
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
GRANT SELECT ON quota_uses TO chancery_system;

CREATE FUNCTION count_placement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A change of the tree derives what is used anew; it waits, or this does.
    PERFORM pg_advisory_xact_lock_shared(hashtext('quota_tree'));
    PERFORM use_quota(u.leaf_id, u.class, u.resource, CASE TG_OP WHEN 'INSERT' THEN u.amount ELSE -u.amount END)
        FROM (SELECT * FROM quota_uses WHERE placement_id = NEW.id ORDER BY resource) u;
    RETURN NULL;
END
$$;
CREATE TRIGGER placements_count AFTER INSERT ON placements
    FOR EACH ROW EXECUTE FUNCTION count_placement();
CREATE TRIGGER placements_discount AFTER UPDATE OF state ON placements
    FOR EACH ROW WHEN (NEW.state = 'ended' AND OLD.state <> 'ended') EXECUTE FUNCTION count_placement();

-- What each was chosen from, and for whom it had to leave.
ALTER TABLE placements
    ADD COLUMN considered  jsonb,
    ADD COLUMN evicted_for uuid,
    ADD COLUMN evicted_by  text,
    ADD CHECK ((evicted_for IS NULL) = (evicted_by IS NULL));

-- Higher goes first. Endpoints answer people, jobs can wait.
ALTER TABLE endpoints ADD COLUMN priority integer NOT NULL DEFAULT 100 CHECK (priority BETWEEN -1000 AND 1000);
ALTER TABLE jobs ADD COLUMN priority integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000);
ALTER TABLE workloads
    ADD COLUMN priority  integer NOT NULL DEFAULT 0,
    -- Its creation, or when it was last made to leave for another.
    ADD COLUMN queued_at timestamptz,
    -- Since when room is being made for it, which others do not take.
    ADD COLUMN promised_at timestamptz,
    -- What stops it, for programs; `reason` is for people.
    ADD COLUMN level     text;
UPDATE workloads SET queued_at = created_at, priority = CASE WHEN endpoint_id IS NULL THEN 0 ELSE 100 END;
ALTER TABLE workloads ALTER COLUMN queued_at SET NOT NULL;
