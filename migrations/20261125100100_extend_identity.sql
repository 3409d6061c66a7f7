-- Who vouches for people: an issuer of OpenID Connect, bound to one tenant or
-- to the platform. Only the platform registers them, so an issuer may be
-- unique in the installation.
CREATE TABLE identity_providers (
    id              uuid PRIMARY KEY,
    tenant_id       uuid REFERENCES tenants,
    name            text NOT NULL,
    issuer          text NOT NULL UNIQUE,
    client_id       text NOT NULL,
    -- Sealed under a key of the installation; null for a public client.
    client_secret   bytea,
    audience        text NOT NULL,
    algorithms      text[] NOT NULL CHECK (cardinality(algorithms) > 0),
    groups_claim    text NOT NULL,
    mappings        jsonb NOT NULL,
    enabled         boolean NOT NULL DEFAULT true,
    jwks            jsonb,
    jwks_fetched_at timestamptz,
    revision        bigint NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    UNIQUE (tenant_id, id),
    UNIQUE NULLS NOT DISTINCT (tenant_id, name)
);
CALL isolate('identity_providers');
GRANT SELECT ON identity_providers TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON identity_providers TO chancery_system;

-- People and service accounts. A role holds in the whole tenant, or on the
-- platform; `member` gives nothing by itself.
ALTER TABLE principals
    DROP CONSTRAINT principals_role_check,
    DROP CONSTRAINT principals_check,
    ADD COLUMN kind                 text NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'service')),
    ADD COLUMN provider_id          uuid REFERENCES identity_providers ON DELETE CASCADE,
    ADD COLUMN subject              text,
    ADD COLUMN disabled_at          timestamptz,
    ADD COLUMN must_change_password boolean NOT NULL DEFAULT false,
    -- Sealed seed of one-time codes; in force once it was confirmed.
    ADD COLUMN totp_seed            bytea,
    ADD COLUMN totp_confirmed_at    timestamptz,
    -- The time step of the last code that was taken: a code works once.
    ADD COLUMN totp_last_step       bigint,
    ADD COLUMN failures             integer NOT NULL DEFAULT 0,
    ADD COLUMN locked_until         timestamptz,
    ADD COLUMN signed_in_at         timestamptz,
    ADD COLUMN revision             bigint NOT NULL DEFAULT 1,
    ADD CHECK (CASE WHEN tenant_id IS NULL
        THEN role IN ('platform_admin', 'model_approver', 'auditor')
        ELSE role IN ('tenant_admin', 'auditor', 'developer', 'user', 'viewer', 'member') END),
    ADD FOREIGN KEY (tenant_id, provider_id) REFERENCES identity_providers (tenant_id, id) ON DELETE CASCADE,
    ADD CHECK ((provider_id IS NULL) = (subject IS NULL)),
    ADD CHECK (kind = 'person' OR (tenant_id IS NOT NULL AND password_hash IS NULL AND provider_id IS NULL)),
    ADD UNIQUE (provider_id, subject);
-- A login is what people type, so it is unique among those who type one;
-- service accounts are unique in their tenant.
DROP INDEX principals_login;
CREATE UNIQUE INDEX principals_login ON principals (lower(login)) WHERE kind = 'person' AND provider_id IS NULL;
CREATE UNIQUE INDEX principals_service ON principals (tenant_id, lower(login)) WHERE kind = 'service';
CREATE INDEX principals_tenant ON principals (tenant_id, id);
GRANT INSERT, UPDATE, DELETE ON principals TO chancery_tenant;
GRANT DELETE ON principals TO chancery_system;

CREATE TABLE project_members (
    tenant_id    uuid NOT NULL,
    project_id   uuid NOT NULL,
    principal_id uuid NOT NULL,
    role         text NOT NULL CHECK (role IN ('developer', 'user', 'viewer')),
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, project_id, principal_id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects,
    FOREIGN KEY (tenant_id, principal_id) REFERENCES principals (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX project_members_principal ON project_members (tenant_id, principal_id);
CALL isolate('project_members');
GRANT SELECT, INSERT, UPDATE, DELETE ON project_members TO chancery_tenant, chancery_system;

ALTER TABLE sessions
    ADD COLUMN last_seen_at timestamptz,
    ADD COLUMN provider_id  uuid REFERENCES identity_providers ON DELETE CASCADE,
    -- The provider's name for its own session, for single sign-out.
    ADD COLUMN provider_sid text,
    -- Sealed ID token, handed back to the provider when signing out.
    ADD COLUMN id_token     bytea,
    ADD COLUMN one_time_code boolean NOT NULL DEFAULT false,
    ADD COLUMN address      text,
    ADD COLUMN user_agent   text;
UPDATE sessions SET last_seen_at = created_at;
ALTER TABLE sessions ALTER COLUMN last_seen_at SET NOT NULL;
CREATE INDEX sessions_provider ON sessions (provider_id, provider_sid) WHERE provider_id IS NOT NULL;

-- What a key may do; null means no bound beyond its role in its project.
ALTER TABLE api_keys
    ADD COLUMN principal_id uuid,
    ADD COLUMN role         text NOT NULL DEFAULT 'developer' CHECK (role IN ('developer', 'user', 'viewer')),
    ADD COLUMN endpoints    text[],
    ADD COLUMN actions      text[],
    ADD COLUMN networks     text[],
    ADD COLUMN rotated_from uuid,
    ADD FOREIGN KEY (tenant_id, principal_id) REFERENCES principals (tenant_id, id),
    ADD FOREIGN KEY (tenant_id, rotated_from) REFERENCES api_keys (tenant_id, id);
CREATE INDEX api_keys_principal ON api_keys (tenant_id, principal_id) WHERE principal_id IS NOT NULL;
