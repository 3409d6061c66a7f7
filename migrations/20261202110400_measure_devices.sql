-- Memory that a worker measured as there for work, free or held by work; null where
-- it measured none, or all of it is there.
ALTER TABLE devices ADD COLUMN available_memory_bytes bigint CHECK (available_memory_bytes >= 0);

CREATE OR REPLACE FUNCTION note_devices() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', worker_id FROM (
            SELECT id, worker_id, ordinal, class, memory_bytes, milli, available_memory_bytes FROM new_rows
            EXCEPT SELECT id, worker_id, ordinal, class, memory_bytes, milli, available_memory_bytes FROM old_rows) changed;
    ELSE
        INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'worker', worker_id FROM rows;
    END IF;
    RETURN NULL;
END
$$;
