-- Restrictions a tenant adds for itself, in Cedar; `forbid` only.
CREATE TABLE restrictions (
    id          uuid NOT NULL,
    tenant_id   uuid NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    description text NOT NULL,
    policy      text NOT NULL,
    revision    bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name)
);
CALL isolate('restrictions');
GRANT SELECT, INSERT, UPDATE, DELETE ON restrictions TO chancery_tenant, chancery_system;

-- Answers of mutations by their Idempotency-Key, written in the mutation's
-- transaction. The answer is sealed under a key made of the caller's own,
-- because it may hold a secret that is shown once.
CREATE TABLE idempotent_answers (
    key_hash    bytea PRIMARY KEY CHECK (length(key_hash) = 32),
    tenant_id   uuid REFERENCES tenants,
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    status      integer NOT NULL,
    answer      bytea NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX idempotent_answers_age ON idempotent_answers (created_at);
CALL isolate('idempotent_answers');
GRANT SELECT, INSERT ON idempotent_answers TO chancery_tenant;
GRANT SELECT, INSERT, DELETE ON idempotent_answers TO chancery_system;

-- Which credential acted, and which policies decided.
ALTER TABLE audit_events
    ADD COLUMN credential text,
    ADD COLUMN policy     text;
