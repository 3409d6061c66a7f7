-- What a tenant or a project may spend in a period: time of accelerators of a
-- class, or tokens. The limit is in thousandths of an accelerator times seconds,
-- or in tokens. Of tokens what was spent is kept here, since each answer adds to
-- it; time of accelerators is counted from placements.
CREATE TABLE budgets (
    id         uuid NOT NULL UNIQUE,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    -- Null: the whole tenant.
    project    uuid,
    -- Null: tokens.
    class      text REFERENCES accelerator_classes,
    period     text NOT NULL CHECK (period IN ('day', 'month')),
    amount     bigint NOT NULL CHECK (amount >= 0),
    -- Of tokens: what was spent in the period that began then.
    spent      bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    began      timestamptz NOT NULL,
    revision   bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT budgets_once UNIQUE NULLS NOT DISTINCT (tenant_id, project, class),
    FOREIGN KEY (tenant_id, project) REFERENCES projects
);
ALTER TABLE budgets SET (fillfactor = 50);
CALL isolate('budgets');
GRANT SELECT ON budgets TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON budgets TO chancery_system;
CREATE TRIGGER tenant_lives AFTER INSERT ON budgets FOR EACH ROW EXECUTE FUNCTION refuse_ended_tenant();

-- Time that placements held, a row for each day (UTC) of a project and a class,
-- written when they end: thousandths of an accelerator times milliseconds.
CREATE TABLE accelerator_usage (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    project_id uuid NOT NULL,
    class      text NOT NULL REFERENCES accelerator_classes,
    day        date NOT NULL,
    milli_ms   bigint NOT NULL CHECK (milli_ms >= 0),
    PRIMARY KEY (tenant_id, project_id, class, day),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);
ALTER TABLE accelerator_usage SET (fillfactor = 50);
CALL isolate('accelerator_usage');
CALL narrow_to_projects('accelerator_usage');
GRANT SELECT ON accelerator_usage TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON accelerator_usage TO chancery_system;
CALL erase_only_with_tenant('accelerator_usage');

-- What a tenant runs is looked for when one that has a budget begins something.
CREATE INDEX placements_tenant ON placements (tenant_id) WHERE ended_at IS NULL;

-- The first moment of the period that a moment is in. All periods are in UTC.
CREATE FUNCTION period_begins(period text, at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_trunc(period, at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';

-- Milliseconds that two spans share.
CREATE FUNCTION shared_ms(began timestamptz, ended timestamptz, span_begins timestamptz, span_ends timestamptz)
    RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN greatest(0, floor(extract(epoch FROM least(ended, span_ends) - greatest(began, span_begins)) * 1000))::bigint;

-- Time of accelerators that a workload reserves of each budget when it is placed,
-- in milliseconds; domain::budgets::RESERVE_SECS is the same.
CREATE FUNCTION reserve_ms() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 60000;

-- What each placement holds, of whose and since when.
CREATE VIEW placement_times WITH (security_invoker = true) AS
    SELECT p.id AS placement_id, p.tenant_id, COALESCE(e.project_id, j.project_id) AS project_id,
        COALESCE(p.class, w.class) AS class, w.milli, p.created_at AS began, p.ended_at AS ended
    FROM placements p
    JOIN workloads w ON w.tenant_id = p.tenant_id AND w.id = p.workload_id
    LEFT JOIN endpoints e ON e.tenant_id = w.tenant_id AND e.id = w.endpoint_id
    LEFT JOIN jobs j ON j.tenant_id = w.tenant_id AND j.id = w.job_id;
GRANT SELECT ON placement_times TO chancery_system, chancery_tenant;

-- The same of what has ended, by day.
CREATE VIEW placement_days WITH (security_invoker = true) AS
    SELECT t.placement_id, t.tenant_id, t.project_id, t.class, d.day::date AS day,
        t.milli * shared_ms(t.began, t.ended, d.day AT TIME ZONE 'UTC', d.day AT TIME ZONE 'UTC' + interval '1 day')
            AS milli_ms
    FROM placement_times t
    CROSS JOIN LATERAL generate_series(
        date_trunc('day', t.began AT TIME ZONE 'UTC'), t.ended AT TIME ZONE 'UTC', interval '1 day') AS d (day)
    WHERE t.ended IS NOT NULL;
GRANT SELECT ON placement_days TO chancery_system;

-- What was there before.
ALTER TABLE placements NO FORCE ROW LEVEL SECURITY;
ALTER TABLE workloads NO FORCE ROW LEVEL SECURITY;
ALTER TABLE endpoints NO FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
ALTER TABLE accelerator_usage NO FORCE ROW LEVEL SECURITY;
INSERT INTO accelerator_usage (tenant_id, project_id, class, day, milli_ms)
    SELECT tenant_id, project_id, class, day, sum(milli_ms) FROM placement_days GROUP BY 1, 2, 3, 4;
ALTER TABLE placements FORCE ROW LEVEL SECURITY;
ALTER TABLE workloads FORCE ROW LEVEL SECURITY;
ALTER TABLE endpoints FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
ALTER TABLE accelerator_usage FORCE ROW LEVEL SECURITY;

-- What a tenant, or a project of it, has spent of a class since a moment, in
-- thousandths of an accelerator times milliseconds: what has ended, what the
-- rest has run for, and what that reserves beyond it.
CREATE FUNCTION accelerator_spending(tenant uuid, of_project uuid, class_name text, since timestamptz, now timestamptz)
    RETURNS TABLE (settled bigint, running bigint, reserved bigint)
    LANGUAGE sql STABLE AS $$
    SELECT
        (SELECT COALESCE(sum(u.milli_ms), 0)::bigint FROM accelerator_usage u
         WHERE u.tenant_id = tenant AND u.class = class_name AND (of_project IS NULL OR u.project_id = of_project)
           AND u.day >= (since AT TIME ZONE 'UTC')::date),
        COALESCE(sum(t.milli * t.ms), 0)::bigint,
        COALESCE(sum(t.milli * greatest(0, reserve_ms() - t.ms)), 0)::bigint
    FROM (SELECT t.milli, shared_ms(t.began, now, since, now) AS ms FROM placement_times t
          WHERE t.tenant_id = tenant AND t.ended IS NULL AND t.class = class_name
            AND (of_project IS NULL OR t.project_id = of_project)) t
$$;
REVOKE ALL ON FUNCTION accelerator_spending(uuid, uuid, text, timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION accelerator_spending(uuid, uuid, text, timestamptz, timestamptz) TO chancery_system;

-- Refuses what a budget does not allow. Those who begin something under one
-- budget do so one after the other.
CREATE FUNCTION hold_budgets(placement_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    budget record;
    spending record;
    now timestamptz;
BEGIN
    FOR budget IN
        SELECT b.* FROM budgets b
        WHERE b.tenant_id IN (SELECT p.tenant_id FROM placements p WHERE p.id = ANY (placement_ids))
            AND b.class IS NOT NULL
            AND NOT EXISTS (SELECT FROM projects x WHERE x.tenant_id = b.tenant_id AND x.id = b.project
                AND x.deleted_at IS NOT NULL)
        ORDER BY b.id FOR NO KEY UPDATE OF b
    LOOP
        SELECT max(t.began) INTO now FROM placement_times t
            WHERE t.placement_id = ANY (placement_ids) AND t.tenant_id = budget.tenant_id AND t.class = budget.class
                AND (budget.project IS NULL OR t.project_id = budget.project);
        CONTINUE WHEN now IS NULL;
        SELECT * INTO spending FROM accelerator_spending(
            budget.tenant_id, budget.project, budget.class, period_begins(budget.period, now), now);
        -- As whole thousandths times seconds, rounded up.
        IF (spending.settled + spending.running + spending.reserved + 999) / 1000 > budget.amount THEN
            RAISE check_violation USING CONSTRAINT = 'budget_fits',
                MESSAGE = format('budget %s has too little left of class %s', budget.id, budget.class);
        END IF;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION hold_budgets(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hold_budgets(uuid[]) TO chancery_system;

CREATE OR REPLACE FUNCTION begin_placements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM count_placements(ARRAY(SELECT id FROM new_rows WHERE state <> 'ended'), 1);
    PERFORM hold_budgets(ARRAY(SELECT id FROM new_rows WHERE state <> 'ended'));
    RETURN NULL;
END
$$;

-- Keeps the time of what has ended. Rows are taken in one order.
CREATE FUNCTION settle_placements(placement_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO accelerator_usage AS u (tenant_id, project_id, class, day, milli_ms)
        SELECT tenant_id, project_id, class, day, sum(milli_ms) FROM placement_days
        WHERE placement_id = ANY (placement_ids) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
        ON CONFLICT (tenant_id, project_id, class, day) DO UPDATE SET milli_ms = u.milli_ms + EXCLUDED.milli_ms;
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'budgets', b.tenant_id FROM budgets b
        WHERE b.class IS NOT NULL
            AND b.tenant_id IN (SELECT p.tenant_id FROM placements p WHERE p.id = ANY (placement_ids));
END
$$;
REVOKE ALL ON FUNCTION settle_placements(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION settle_placements(uuid[]) TO chancery_system;

-- An ended placement gives its devices, its quota and what it reserved back,
-- whoever ends it.
CREATE OR REPLACE FUNCTION end_placements() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended uuid[] := ARRAY(SELECT id FROM old_rows WHERE state <> 'ended'
                          EXCEPT SELECT id FROM new_rows WHERE state <> 'ended');
BEGIN
    IF ended <> '{}' THEN
        PERFORM count_placements(ended, -1);
        PERFORM settle_placements(ended);
        DELETE FROM placement_devices WHERE placement_id = ANY (ended);
    END IF;
    RETURN NULL;
END
$$;

-- What the planner knows of budgets is read a tenant at a time.
ALTER TABLE planner_changes DROP CONSTRAINT planner_changes_kind_check;
ALTER TABLE planner_changes ADD CONSTRAINT planner_changes_kind_check
    CHECK (kind IN ('tenant', 'quotas', 'budgets', 'worker', 'endpoint', 'job', 'workload', 'placement'));
CREATE FUNCTION note_budget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) VALUES ('budgets', COALESCE(NEW.tenant_id, OLD.tenant_id));
    RETURN NULL;
END
$$;
CREATE TRIGGER note_budget AFTER INSERT OR DELETE OR UPDATE OF period, amount ON budgets
    FOR EACH ROW EXECUTE FUNCTION note_budget();
CREATE TRIGGER note_budget AFTER UPDATE OF deleted_at ON projects
    FOR EACH ROW EXECUTE FUNCTION note_budget();
