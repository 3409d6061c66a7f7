-- What changed of what the planner knows, so that it reads that and not all.
-- A transaction's rows are seen with it, and read by the snapshot in which they
-- first are. Lost in a crash, as is whoever had not read them.
CREATE UNLOGGED TABLE planner_changes (
    xid  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind text NOT NULL CHECK (kind IN ('tenant', 'quotas', 'worker', 'endpoint', 'job', 'workload', 'placement')),
    id   uuid NOT NULL
);
CREATE INDEX planner_changes_xid ON planner_changes (xid);
CALL isolate_system('planner_changes');
CREATE POLICY tenant_inserts ON planner_changes FOR INSERT TO chancery_tenant WITH CHECK (true);
GRANT INSERT ON planner_changes TO chancery_tenant;
GRANT SELECT, INSERT, DELETE ON planner_changes TO chancery_system;

-- Notes rows that are new. Its argument is their kind.
CREATE FUNCTION note_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT TG_ARGV[0], id FROM new_rows;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_new AFTER INSERT ON tenants REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('tenant');
CREATE TRIGGER note_new AFTER INSERT ON workers REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('worker');
CREATE TRIGGER note_new AFTER INSERT ON endpoints REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('endpoint');
CREATE TRIGGER note_new AFTER INSERT ON jobs REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('job');
CREATE TRIGGER note_new AFTER INSERT ON workloads REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('workload');
CREATE TRIGGER note_new AFTER INSERT ON placements REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_new('placement');

-- Updates are noted where they change what the planner goes by. That a worker
-- was heard, or that a reason was told, is not noted. EXCEPT takes as long as
-- there are rows; a plan of a join that was made for one row takes their square.
CREATE FUNCTION note_tenants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'tenant', id FROM (
        SELECT id, status, zones FROM new_rows EXCEPT SELECT id, status, zones FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON tenants REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_tenants();

CREATE FUNCTION note_workers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', id FROM (
        SELECT id, name, pool, zone, address, cordoned, live, revision FROM new_rows
        EXCEPT SELECT id, name, pool, zone, address, cordoned, live, revision FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON workers REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_workers();

CREATE FUNCTION note_devices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', worker_id FROM (
            SELECT id, worker_id, ordinal, class, memory_bytes, milli FROM new_rows
            EXCEPT SELECT id, worker_id, ordinal, class, memory_bytes, milli FROM old_rows) changed;
    ELSE
        INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', worker_id FROM rows;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_new AFTER INSERT ON devices REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_devices();
CREATE TRIGGER note_gone AFTER DELETE ON devices REFERENCING OLD TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_devices();
CREATE TRIGGER note_changes AFTER UPDATE ON devices REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_devices();

CREATE FUNCTION note_endpoints() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'endpoint', id FROM (
        SELECT id, replicas, priority, version_id, class, memory_bytes, milli, deleted_at FROM new_rows
        EXCEPT SELECT id, replicas, priority, version_id, class, memory_bytes, milli, deleted_at FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON endpoints REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_endpoints();

CREATE FUNCTION note_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'job', id FROM (
        SELECT id, state, priority, ended_at FROM new_rows EXCEPT SELECT id, state, priority, ended_at FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON jobs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_jobs();

-- How many shares a job wants follows from its open chunks.
CREATE FUNCTION note_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'job', job_id FROM (
        SELECT job_id, index, state = 'done' FROM new_rows EXCEPT SELECT job_id, index, state = 'done' FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON job_chunks REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_chunks();

CREATE FUNCTION note_workloads() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'workload', id FROM (
        SELECT id, state, generation, priority, queued_at FROM new_rows EXCEPT SELECT id, state, generation, priority, queued_at FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON workloads REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_workloads();

CREATE FUNCTION note_placements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'placement', id FROM (
        SELECT id, state FROM new_rows EXCEPT SELECT id, state FROM old_rows) changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER UPDATE ON placements REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_placements();

-- The tree is read as a whole. A change of any of its quotas changes its node.
CREATE FUNCTION note_quotas() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) VALUES ('quotas', '00000000-0000-0000-0000-000000000000');
    RETURN NULL;
END
$$;
CREATE TRIGGER note_changes AFTER INSERT OR UPDATE OR DELETE ON quota_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION note_quotas();
CREATE TRIGGER note_quotas AFTER UPDATE OF deleted_at ON projects
    FOR EACH STATEMENT EXECUTE FUNCTION note_quotas();

-- Devices and quotas are counted once for each statement and not for each row:
-- many placements of one ministry change its quota once. Quotas are locked before
-- devices, and each of them in one order, so that statements that meet wait for
-- each other and do not die.
DROP TRIGGER placement_devices_hold ON placement_devices;
DROP FUNCTION hold_device();
CREATE FUNCTION hold_devices() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sign integer := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    PERFORM FROM devices WHERE id = ANY (ARRAY(SELECT device_id FROM rows)) ORDER BY id FOR NO KEY UPDATE;
    UPDATE devices d SET used_memory_bytes = used_memory_bytes + sign * s.memory, used_milli = used_milli + sign * s.milli
        FROM (SELECT device_id, sum(memory_bytes)::bigint AS memory, sum(milli)::integer AS milli FROM rows GROUP BY 1) s
        WHERE d.id = s.device_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_devices AFTER INSERT ON placement_devices REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION hold_devices();
CREATE TRIGGER free_devices AFTER DELETE ON placement_devices REFERENCING OLD TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION hold_devices();

DROP TRIGGER placements_count ON placements;
DROP TRIGGER placements_discount ON placements;
DROP TRIGGER placements_release ON placements;
DROP FUNCTION count_placement();
DROP FUNCTION release_placement();
CREATE FUNCTION count_placements(placement_ids uuid[], sign integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    roots uuid[];
    root uuid;
BEGIN
    -- A change of the tree derives what is used anew; it waits, or this does.
    PERFORM pg_advisory_xact_lock_shared(hashtext('quota_tree'));
    -- Trees are locked one after the other, by their roots.
    WITH RECURSIVE above AS (
        SELECT n.id, n.parent_id FROM quota_nodes n WHERE n.id IN
            (SELECT p.tenant_id FROM placements p WHERE p.id = ANY (placement_ids))
        UNION
        SELECT n.id, n.parent_id FROM above a JOIN quota_nodes n ON n.id = a.parent_id
    )
    SELECT array_agg(id ORDER BY id) INTO roots FROM above WHERE parent_id IS NULL;
    FOREACH root IN ARRAY COALESCE(roots, '{}') LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(root::text, 0));
    END LOOP;
    PERFORM use_quota(u.leaf_id, u.class, u.resource, sign * u.amount)
        FROM (SELECT leaf_id, class, resource, sum(amount)::bigint AS amount FROM quota_uses
              WHERE placement_id = ANY (placement_ids) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) u;
END
$$;
REVOKE ALL ON FUNCTION count_placements(uuid[], integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION count_placements(uuid[], integer) TO chancery_system;

CREATE FUNCTION begin_placements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_placements(ARRAY(SELECT id FROM new_rows WHERE state <> 'ended'), 1);
    RETURN NULL;
END
$$;
CREATE TRIGGER begin_placements AFTER INSERT ON placements REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION begin_placements();

-- An ended placement gives its devices and its quota back, whoever ends it.
CREATE FUNCTION end_placements() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended uuid[] := ARRAY(SELECT id FROM old_rows WHERE state <> 'ended'
                          EXCEPT SELECT id FROM new_rows WHERE state <> 'ended');
BEGIN
    IF ended <> '{}' THEN
        PERFORM count_placements(ended, -1);
        DELETE FROM placement_devices WHERE placement_id = ANY (ended);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER end_placements AFTER UPDATE ON placements REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION end_placements();
