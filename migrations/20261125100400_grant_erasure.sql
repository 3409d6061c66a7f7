-- Erasing a tenant: the loop that does it may delete every row of a tenant
-- that is being deleted. Rows that nothing else may delete are guarded by a
-- policy of their own; audit events and certificates are never deleted.
GRANT DELETE ON projects, api_keys, models, model_versions, model_files, endpoints, files, jobs, job_chunks,
    results, workloads, placements, usage TO chancery_system;

-- The grant above, for what is otherwise append-only or ends by a mark.
CREATE PROCEDURE erase_only_with_tenant(table_name regclass)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE POLICY erased_rows ON %s AS RESTRICTIVE FOR DELETE TO chancery_system
         USING (tenant_id IN (SELECT id FROM tenants WHERE status = ''deleting''))', table_name);
END
$$;
REVOKE ALL ON PROCEDURE erase_only_with_tenant(regclass) FROM PUBLIC;
CALL erase_only_with_tenant('projects');
CALL erase_only_with_tenant('api_keys');
CALL erase_only_with_tenant('models');
CALL erase_only_with_tenant('model_versions');
CALL erase_only_with_tenant('model_files');
CALL erase_only_with_tenant('endpoints');
CALL erase_only_with_tenant('files');
CALL erase_only_with_tenant('jobs');
CALL erase_only_with_tenant('job_chunks');
CALL erase_only_with_tenant('workloads');
CALL erase_only_with_tenant('placements');
CALL erase_only_with_tenant('usage');
-- Results also go when their tenant's retention says so.
CREATE POLICY erased_rows ON results AS RESTRICTIVE FOR DELETE TO chancery_system
    USING (tenant_id IN (SELECT id FROM tenants
        WHERE status = 'deleting' OR retention ->> 'results_days' IS NOT NULL));

-- What was erased so far, so that a loop which dies counts nothing twice.
ALTER TABLE tenant_deletions
    ADD COLUMN erased       jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN objects      bigint NOT NULL DEFAULT 0,
    ADD COLUMN object_bytes bigint NOT NULL DEFAULT 0,
    -- Why it cannot go on just now.
    ADD COLUMN waits_for    text;

-- A tenant that ends gets nothing new, from a request that began before it
-- ended. The name sorts behind those of foreign keys, whose lock on the tenant's
-- row orders this insert with the end.
CREATE FUNCTION refuse_ended_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant_id IS NOT NULL
        AND EXISTS (SELECT FROM tenants t WHERE t.id = NEW.tenant_id AND t.status IN ('deleting', 'deleted')) THEN
        RAISE foreign_key_violation USING MESSAGE = 'the tenant is being deleted';
    END IF;
    RETURN NULL;
END
$$;
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['projects', 'principals', 'models', 'identity_providers', 'restrictions',
        'idempotent_answers', 'api_keys', 'endpoints', 'files', 'jobs'] LOOP
        EXECUTE format('CREATE TRIGGER tenant_lives AFTER INSERT ON %I
            FOR EACH ROW EXECUTE FUNCTION refuse_ended_tenant()', table_name);
    END LOOP;
END
$$;

-- Every table with rows of tenants, and the tables its rows refer to.
CREATE FUNCTION tenant_tables() RETURNS TABLE (name text, parents text[])
    LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, ARRAY(
        SELECT DISTINCT p.relname::text FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid
        WHERE k.contype = 'f' AND k.conrelid = c.oid AND k.confrelid <> c.oid ORDER BY 1)
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
    ORDER BY 1
$$;
REVOKE ALL ON FUNCTION tenant_tables() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenant_tables() TO chancery_tenant, chancery_system;

-- Deletes up to `most` of a tenant's rows in a table; returns how many.
CREATE FUNCTION erase_rows(table_name text, tenant uuid, most bigint) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    erased bigint;
BEGIN
    EXECUTE format('DELETE FROM %1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$I WHERE tenant_id = $1 LIMIT $2))',
        table_name) USING tenant, most;
    GET DIAGNOSTICS erased = ROW_COUNT;
    RETURN erased;
END
$$;
REVOKE ALL ON FUNCTION erase_rows(text, uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erase_rows(text, uuid, bigint) TO chancery_system;

-- A tenant's rows of a table as JSON, without what is secret: passwords, seeds,
-- sealed texts and every column of bytes that is no digest of content.
CREATE FUNCTION export_rows(table_name text, tenant uuid) RETURNS SETOF text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    columns text;
    owner_column text := CASE WHEN table_name = 'tenants' THEN 'id' ELSE 'tenant_id' END;
BEGIN
    SELECT string_agg(CASE WHEN a.atttypid = 'bytea'::regtype
            THEN format('encode(%1$I, ''hex'') AS %1$I', a.attname) ELSE quote_ident(a.attname) END,
            ', ' ORDER BY a.attnum) INTO columns
    FROM pg_attribute a
    WHERE a.attrelid = format('public.%I', table_name)::regclass AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname !~ '(password|secret|seed|token$)'
        AND (a.atttypid <> 'bytea'::regtype OR a.attname IN ('sha256', 'digest', 'version_digest', 'export'));
    RETURN QUERY EXECUTE format(
        'SELECT row_to_json(r)::text FROM (SELECT %s FROM %I WHERE %I = $1) r', columns, table_name, owner_column)
        USING tenant;
END
$$;
REVOKE ALL ON FUNCTION export_rows(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION export_rows(text, uuid) TO chancery_tenant, chancery_system;

-- Results that the tenant's retention took: the job's counts outlive them.
ALTER TABLE jobs ADD COLUMN results_erased_at timestamptz;
CREATE INDEX jobs_results_kept ON jobs (tenant_id, ended_at) WHERE ended_at IS NOT NULL AND results_erased_at IS NULL;
