-- The planner took `a IS NULL OR b` for nearly always false, expected no rows
-- of a tenant to remain, and then sorted all of them for one page. Of a CASE it
-- expects half, and walks the index. The meaning stays.
CREATE OR REPLACE PROCEDURE narrow_to_projects(table_name regclass, project_column text DEFAULT 'project_id')
    LANGUAGE plpgsql AS $$
DECLARE
    visible text := format(
        '(CASE WHEN (SELECT current_projects()) IS NULL THEN true ELSE %I = ANY ((SELECT current_projects())::uuid[]) END)',
        project_column);
BEGIN
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
