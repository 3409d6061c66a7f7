-- How often in a row what a placement needs failed on its worker, and when last.
-- What failed on a worker is rather placed on another.
ALTER TABLE placements
    ADD COLUMN failures  integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    ADD COLUMN failed_at timestamptz,
    ADD CHECK ((failures = 0) = (failed_at IS NULL));
CREATE INDEX placements_failed ON placements (workload_id) WHERE failures > 0;

CREATE OR REPLACE FUNCTION note_placements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'placement', id FROM (
        SELECT id, state, failures, failed_at FROM new_rows
        EXCEPT SELECT id, state, failures, failed_at FROM old_rows) changed;
    RETURN NULL;
END
$$;
