-- Tenants live: they are suspended, bound to zones, and end.
-- A deleted tenant keeps its row, so that its audit events keep their owner;
-- its short name is free again.
ALTER TABLE tenants
    ADD COLUMN names             jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN status            text NOT NULL DEFAULT 'active'
        CHECK (status IN ('active', 'suspended', 'deleting', 'deleted')),
    ADD COLUMN zones             text[] NOT NULL DEFAULT '{}',
    ADD COLUMN classification    text NOT NULL DEFAULT 'internal'
        CHECK (classification IN ('public', 'internal', 'confidential', 'secret')),
    ADD COLUMN retention         jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN delete_protection boolean NOT NULL DEFAULT false,
    ADD COLUMN revision          bigint NOT NULL DEFAULT 1,
    ADD COLUMN deleted_at        timestamptz,
    ADD CHECK ((status = 'deleted') = (deleted_at IS NOT NULL)),
    DROP CONSTRAINT tenants_slug_key;
CREATE UNIQUE INDEX tenants_slug ON tenants (slug) WHERE status <> 'deleted';

ALTER TABLE projects
    ADD COLUMN limits     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN revision   bigint NOT NULL DEFAULT 1,
    ADD COLUMN deleted_at timestamptz,
    DROP CONSTRAINT projects_tenant_id_slug_key;
CREATE UNIQUE INDEX projects_slug ON projects (tenant_id, slug) WHERE deleted_at IS NULL;

ALTER TABLE endpoints ADD COLUMN revision bigint NOT NULL DEFAULT 1;
ALTER TABLE workers ADD COLUMN revision bigint NOT NULL DEFAULT 1;

-- What is left of a deleted tenant: the request, and in the end a signed
-- certificate of what was erased.
CREATE TABLE tenant_deletions (
    tenant_id    uuid PRIMARY KEY REFERENCES tenants,
    slug         text NOT NULL,
    requested_at timestamptz NOT NULL,
    requested_by text NOT NULL,
    -- SHA-256 of the export that was taken before, if one was.
    export       bytea CHECK (length(export) = 32),
    certificate  text,
    finished_at  timestamptz,
    CHECK ((certificate IS NULL) = (finished_at IS NULL))
);
CALL isolate('tenant_deletions');
GRANT SELECT, INSERT, UPDATE ON tenant_deletions TO chancery_system;
