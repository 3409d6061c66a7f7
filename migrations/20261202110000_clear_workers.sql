-- How secret the work may be that a worker holds. The platform says so, never the
-- worker; one that nobody cleared holds what a tenant has unless told otherwise.
ALTER TABLE workers ADD COLUMN clearance text NOT NULL DEFAULT 'internal'
    CHECK (clearance IN ('public', 'internal', 'confidential', 'secret'));

CREATE OR REPLACE FUNCTION note_tenants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'tenant', id FROM (
        SELECT id, status, zones, classification FROM new_rows
        EXCEPT SELECT id, status, zones, classification FROM old_rows) changed;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION note_workers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', id FROM (
        SELECT id, name, pool, zone, address, cordoned, clearance, live, revision FROM new_rows
        EXCEPT SELECT id, name, pool, zone, address, cordoned, clearance, live, revision FROM old_rows) changed;
    RETURN NULL;
END
$$;
