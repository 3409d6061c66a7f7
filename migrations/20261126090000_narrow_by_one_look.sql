-- Each look at the transaction's projects is a node that every statement pays
-- for: one is enough. A comparison with a null list is null, and then
-- every row counts; that is only sound for a column that is never null itself.
CREATE OR REPLACE PROCEDURE narrow_to_projects(table_name regclass, project_column text DEFAULT 'project_id')
    LANGUAGE plpgsql AS $$
DECLARE
    visible text := format('COALESCE(%I = ANY ((SELECT current_projects())::uuid[]), true)', project_column);
BEGIN
    IF NOT (SELECT attnotnull FROM pg_attribute WHERE attrelid = table_name AND attname = project_column) THEN
        RAISE EXCEPTION '% of % may be null: its rows would be visible from every project', project_column, table_name;
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS project_rows ON %s', table_name);
    EXECUTE format(
        'CREATE POLICY project_rows ON %s AS RESTRICTIVE TO chancery_tenant USING (%s) WITH CHECK (%s)',
        table_name, visible, visible);
END
$$;

CALL narrow_to_projects('projects', 'id');
CALL narrow_to_projects('project_members');
CALL narrow_to_projects('api_keys');
CALL narrow_to_projects('endpoints');
CALL narrow_to_projects('files');
CALL narrow_to_projects('jobs');
CALL narrow_to_projects('usage');

-- A job's place is that among its own tenant's.
CREATE INDEX jobs_queue ON jobs (tenant_id, created_at, id) WHERE ended_at IS NULL;
