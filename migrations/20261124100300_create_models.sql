-- Models of the national catalogue have no tenant and are read by all.
CREATE TABLE models (
    id         uuid PRIMARY KEY,
    tenant_id  uuid REFERENCES tenants,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);
CALL isolate('models', shared_reads => true);
GRANT SELECT, INSERT ON models TO chancery_tenant, chancery_system;

-- A version never changes. Its model's tenant is repeated so that it is
-- isolated by its own row.
CREATE TABLE model_versions (
    id         uuid PRIMARY KEY,
    model_id   uuid NOT NULL REFERENCES models,
    tenant_id  uuid REFERENCES tenants,
    digest     bytea NOT NULL CHECK (length(digest) = 32),
    manifest   jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (model_id, digest)
);
CALL isolate('model_versions', shared_reads => true);
GRANT SELECT, INSERT ON model_versions TO chancery_tenant, chancery_system;

CREATE TABLE model_files (
    version_id uuid NOT NULL REFERENCES model_versions,
    tenant_id  uuid REFERENCES tenants,
    path       text NOT NULL,
    sha256     bytea NOT NULL CHECK (length(sha256) = 32),
    bytes      bigint NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (version_id, path)
);
CREATE INDEX model_files_sha256 ON model_files (sha256);
CALL isolate('model_files', shared_reads => true);
GRANT SELECT, INSERT ON model_files TO chancery_tenant, chancery_system;

-- A version's model, and a file's version, are of the same tenant.
CREATE FUNCTION check_model_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM models m WHERE m.id = NEW.model_id AND m.tenant_id IS NOT DISTINCT FROM NEW.tenant_id) THEN
        RAISE foreign_key_violation USING MESSAGE = 'model_versions.model_id names no model of this tenant';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER model_versions_tenant BEFORE INSERT ON model_versions FOR EACH ROW EXECUTE FUNCTION check_model_tenant();

CREATE FUNCTION check_version_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM model_versions v WHERE v.id = NEW.version_id AND v.tenant_id IS NOT DISTINCT FROM NEW.tenant_id) THEN
        RAISE foreign_key_violation USING MESSAGE = 'model_files.version_id names no version of this tenant';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER model_files_tenant BEFORE INSERT ON model_files FOR EACH ROW EXECUTE FUNCTION check_version_tenant();
