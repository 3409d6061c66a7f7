-- Pools of workers that are dedicated to tenants. A worker is in the pool that it
-- names when it joins, unless the platform has put it into another.
CREATE TABLE pools (
    name        text PRIMARY KEY,
    description text NOT NULL,
    created_at  timestamptz NOT NULL
);
CALL isolate_system('pools');
GRANT SELECT, INSERT, UPDATE, DELETE ON pools TO chancery_system;

CREATE TABLE pool_tenants (
    tenant_id uuid NOT NULL REFERENCES tenants,
    pool      text NOT NULL REFERENCES pools,
    PRIMARY KEY (tenant_id, pool)
);
CREATE INDEX pool_tenants_pool ON pool_tenants (pool);
CALL isolate('pool_tenants');
GRANT SELECT ON pool_tenants TO chancery_tenant;
GRANT SELECT, INSERT, DELETE ON pool_tenants TO chancery_system;

ALTER TABLE workers ADD COLUMN assigned_pool text;
CREATE INDEX workers_pool ON workers (pool);

-- Whom a pool is dedicated to bounds the work of tenants; that it is dedicated is a
-- property of its workers.
CREATE FUNCTION note_pool_tenants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'tenant', tenant_id FROM rows;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_new AFTER INSERT ON pool_tenants REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_pool_tenants();
CREATE TRIGGER note_gone AFTER DELETE ON pool_tenants REFERENCING OLD TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_pool_tenants();

CREATE FUNCTION note_pools() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', w.id FROM rows JOIN workers w ON w.pool = rows.name;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_new AFTER INSERT ON pools REFERENCING NEW TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_pools();
CREATE TRIGGER note_gone AFTER DELETE ON pools REFERENCING OLD TABLE AS rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_pools();
