CREATE TABLE tenants (
    id         uuid PRIMARY KEY,
    slug       text NOT NULL UNIQUE,
    name       text NOT NULL,
    created_at timestamptz NOT NULL
);
CALL isolate('tenants', 'id');
GRANT SELECT ON tenants TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON tenants TO chancery_system;

CREATE TABLE projects (
    id         uuid NOT NULL UNIQUE,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    slug       text NOT NULL,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, slug)
);
CALL isolate('projects');
GRANT SELECT, INSERT, UPDATE ON projects TO chancery_tenant, chancery_system;

-- People and service accounts. Those of the platform have no tenant.
CREATE TABLE principals (
    id            uuid PRIMARY KEY,
    tenant_id     uuid REFERENCES tenants,
    login         text NOT NULL,
    display_name  text NOT NULL,
    role          text NOT NULL CHECK (role IN ('platform_admin', 'tenant_admin', 'developer')),
    password_hash text,
    created_at    timestamptz NOT NULL,
    UNIQUE (tenant_id, id),
    CHECK ((role = 'platform_admin') = (tenant_id IS NULL))
);
-- A login is an address such as name@ministry; people sign in with it alone,
-- so it is unique in the installation. Only the platform creates principals.
CREATE UNIQUE INDEX principals_login ON principals (lower(login));
CALL isolate('principals');
GRANT SELECT ON principals TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON principals TO chancery_system;

CREATE TABLE sessions (
    token_hash   bytea PRIMARY KEY,
    id           uuid NOT NULL UNIQUE,
    principal_id uuid NOT NULL REFERENCES principals,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz
);
CREATE INDEX sessions_principal ON sessions (principal_id);
CALL isolate_system('sessions');
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO chancery_system;

CREATE TABLE api_keys (
    id           uuid NOT NULL UNIQUE,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    project_id   uuid NOT NULL,
    name         text NOT NULL,
    prefix       text NOT NULL,
    key_hash     bytea NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);
CALL isolate('api_keys');
GRANT SELECT, INSERT, UPDATE ON api_keys TO chancery_tenant, chancery_system;
