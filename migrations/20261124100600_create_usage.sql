-- One row per answer; append only.
CREATE TABLE usage (
    id                uuid NOT NULL UNIQUE,
    tenant_id         uuid NOT NULL REFERENCES tenants,
    project_id        uuid NOT NULL,
    key_id            uuid,
    endpoint_id       uuid,
    job_id            uuid,
    request_id        uuid NOT NULL,
    model             text NOT NULL,
    version_digest    bytea NOT NULL CHECK (length(version_digest) = 32),
    worker_id         uuid REFERENCES workers,
    prompt_tokens     bigint NOT NULL CHECK (prompt_tokens >= 0),
    completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
    accelerator_ms    bigint NOT NULL CHECK (accelerator_ms >= 0),
    at                timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects,
    FOREIGN KEY (tenant_id, key_id) REFERENCES api_keys,
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES endpoints,
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs
);
CREATE INDEX usage_time ON usage (tenant_id, at);
CALL isolate('usage');
GRANT SELECT, INSERT ON usage TO chancery_tenant, chancery_system;
