-- Tokens that requests under way may come to. What a request used is billed and
-- its reservation deleted in one transaction; one whose process died is worth
-- nothing when it expires.
CREATE TABLE token_reservations (
    id         uuid NOT NULL UNIQUE,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    project_id uuid NOT NULL,
    tokens     bigint NOT NULL CHECK (tokens >= 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);
CALL isolate('token_reservations');
CALL narrow_to_projects('token_reservations');
GRANT SELECT, INSERT, DELETE ON token_reservations TO chancery_tenant, chancery_system;

-- What a chunk's lines may come to: its lease reserves it.
ALTER TABLE job_chunks ADD COLUMN tokens bigint NOT NULL DEFAULT 0 CHECK (tokens >= 0);

-- Who bills or reserves changes these, whoever set the limit.
GRANT UPDATE (spent, began) ON budgets TO chancery_tenant;

-- What of a budget of tokens is spent in the period of a moment, and reserved.
CREATE FUNCTION token_spending(budget budgets, now timestamptz, OUT spent bigint, OUT reserved bigint)
    LANGUAGE sql STABLE AS $$
    SELECT
        CASE WHEN budget.began = period_begins(budget.period, now) THEN budget.spent ELSE 0 END,
        (SELECT COALESCE(sum(r.tokens), 0) FROM token_reservations r
         WHERE r.tenant_id = budget.tenant_id AND r.expires_at > now
           AND (budget.project IS NULL OR r.project_id = budget.project))::bigint
        + (SELECT COALESCE(sum(c.tokens), 0) FROM job_chunks c
           JOIN jobs j ON j.tenant_id = c.tenant_id AND j.id = c.job_id
           WHERE c.tenant_id = budget.tenant_id AND c.state = 'leased' AND c.lease_expires_at > now
             AND (budget.project IS NULL OR j.project_id = budget.project))::bigint
$$;
REVOKE ALL ON FUNCTION token_spending(budgets, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION token_spending(budgets, timestamptz) TO chancery_tenant, chancery_system;
CREATE INDEX job_chunks_leased ON job_chunks (tenant_id) WHERE state = 'leased';

-- The first budget of tokens that binds a project and has less left than is asked
-- for. Whoever reserves under one budget does so one after the other.
CREATE FUNCTION tokens_short(of_tenant uuid, of_project uuid, asked bigint, now timestamptz)
    RETURNS TABLE (project uuid, period text, amount bigint, spent bigint, reserved bigint)
    LANGUAGE plpgsql AS $$
DECLARE
    budget budgets;
    spending record;
BEGIN
    FOR budget IN
        SELECT * FROM budgets b
        WHERE b.tenant_id = of_tenant AND b.class IS NULL AND (b.project IS NULL OR b.project = of_project)
        ORDER BY b.id FOR NO KEY UPDATE
    LOOP
        SELECT * INTO spending FROM token_spending(budget, now);
        IF asked > budget.amount - spending.spent - spending.reserved THEN
            project := budget.project;
            period := budget.period;
            amount := budget.amount;
            spent := spending.spent;
            reserved := spending.reserved;
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION tokens_short(uuid, uuid, bigint, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tokens_short(uuid, uuid, bigint, timestamptz) TO chancery_tenant, chancery_system;

-- Answers add to what is spent, in the transaction that bills them.
CREATE FUNCTION spend_tokens() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    budget budgets;
    used record;
BEGIN
    FOR budget IN
        SELECT * FROM budgets b
        WHERE b.tenant_id IN (SELECT n.tenant_id FROM new_rows n) AND b.class IS NULL
        ORDER BY b.id FOR NO KEY UPDATE
    LOOP
        SELECT sum(n.prompt_tokens + n.completion_tokens)::bigint AS tokens,
               max(period_begins(budget.period, n.at)) AS began INTO used
        FROM new_rows n
        WHERE n.tenant_id = budget.tenant_id AND (budget.project IS NULL OR n.project_id = budget.project);
        -- One of a period that is over changes nothing any more.
        IF used.began >= budget.began THEN
            UPDATE budgets b SET began = used.began,
                spent = used.tokens + CASE WHEN b.began = used.began THEN b.spent ELSE 0 END
            WHERE b.id = budget.id;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER spend_tokens AFTER INSERT ON usage REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION spend_tokens();

-- Why a job begins no lines, in words: a budget of tokens has too little left. Its
-- shares leave, and come back when there is room.
ALTER TABLE jobs ADD COLUMN waits_for text;
CREATE INDEX jobs_short_of_tokens ON jobs (tenant_id) WHERE waits_for IS NOT NULL;
CREATE OR REPLACE FUNCTION note_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'job', id FROM (
        SELECT id, state, priority, ended_at, waits_for IS NULL FROM new_rows
        EXCEPT SELECT id, state, priority, ended_at, waits_for IS NULL FROM old_rows) changed;
    RETURN NULL;
END
$$;
