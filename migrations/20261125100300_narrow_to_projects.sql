-- The projects that this transaction may touch; null means every one of the
-- tenant. Read once a statement, as a sub-select.
CREATE FUNCTION current_projects() RETURNS uuid[]
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('chancery.projects', true), '')::uuid[];
REVOKE ALL ON FUNCTION current_projects() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_projects() TO chancery_tenant, chancery_system;

-- Narrows a tenant's rows to those of the transaction's projects.
CREATE PROCEDURE narrow_to_projects(table_name regclass, project_column text DEFAULT 'project_id')
    LANGUAGE plpgsql AS $$
DECLARE
    visible text := format(
        '((SELECT current_projects()) IS NULL OR %I = ANY ((SELECT current_projects())::uuid[]))', project_column);
BEGIN
    EXECUTE format(
        'CREATE POLICY project_rows ON %s AS RESTRICTIVE TO chancery_tenant USING (%s) WITH CHECK (%s)',
        table_name, visible, visible);
END
$$;
REVOKE ALL ON PROCEDURE narrow_to_projects(regclass, text) FROM PUBLIC;

CALL narrow_to_projects('projects', 'id');
CALL narrow_to_projects('project_members');
CALL narrow_to_projects('api_keys');
CALL narrow_to_projects('endpoints');
CALL narrow_to_projects('files');
CALL narrow_to_projects('jobs');
CALL narrow_to_projects('usage');
