-- Roles are shared by all databases of a cluster, and two migrations may run
-- at once, so creating one tolerates that it exists.
--   chancery_owner   owns every table and runs migrations (this session)
--   chancery_app     what processes log in as; no right to any table
--   chancery_tenant  one tenant's rows; taken with SET LOCAL ROLE
--   chancery_system  every tenant's rows, for loops and the gateway
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['chancery_tenant', 'chancery_system'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT NOBYPASSRLS', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

GRANT chancery_tenant, chancery_system TO chancery_app;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO chancery_app, chancery_tenant, chancery_system;

-- The tenant of this transaction. After a committed set_config(…, true) the
-- setting is '', not NULL; both must mean "no rows".
CREATE FUNCTION current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('chancery.tenant', true), '')::uuid;
REVOKE ALL ON FUNCTION current_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_tenant() TO chancery_tenant, chancery_system;

-- Puts row-level security on a table whose rows belong to the tenant in
-- `tenant_column`; `shared_reads` lets tenants also read rows of no tenant.
CREATE PROCEDURE isolate(table_name regclass, tenant_column text DEFAULT 'tenant_id', shared_reads boolean DEFAULT false)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', table_name);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', table_name);
    EXECUTE format(
        'CREATE POLICY tenant_rows ON %s TO chancery_tenant USING (%I = current_tenant()) WITH CHECK (%I = current_tenant())',
        table_name, tenant_column, tenant_column);
    IF shared_reads THEN
        EXECUTE format(
            'CREATE POLICY shared_rows ON %s FOR SELECT TO chancery_tenant USING (%I IS NULL)', table_name, tenant_column);
    END IF;
    EXECUTE format('CREATE POLICY system_rows ON %s TO chancery_system USING (true) WITH CHECK (true)', table_name);
END
$$;
REVOKE ALL ON PROCEDURE isolate(regclass, text, boolean) FROM PUBLIC;

-- The same for a table that no tenant may touch.
CREATE PROCEDURE isolate_system(table_name regclass)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', table_name);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', table_name);
    EXECUTE format('CREATE POLICY system_rows ON %s TO chancery_system USING (true) WITH CHECK (true)', table_name);
END
$$;
REVOKE ALL ON PROCEDURE isolate_system(regclass) FROM PUBLIC;
