CREATE TABLE endpoints (
    id           uuid NOT NULL UNIQUE,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    project_id   uuid NOT NULL,
    name         text NOT NULL,
    version_id   uuid NOT NULL REFERENCES model_versions,
    replicas     integer NOT NULL CHECK (replicas BETWEEN 0 AND 1000),
    class        text NOT NULL REFERENCES accelerator_classes,
    memory_bytes bigint NOT NULL CHECK (memory_bytes > 0),
    milli        integer NOT NULL CHECK (milli > 0),
    created_at   timestamptz NOT NULL,
    deleted_at   timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);
CREATE UNIQUE INDEX endpoints_name ON endpoints (tenant_id, name) WHERE deleted_at IS NULL;
CALL isolate('endpoints');
GRANT SELECT, INSERT, UPDATE ON endpoints TO chancery_tenant, chancery_system;

CREATE TABLE files (
    id         uuid NOT NULL UNIQUE,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    project_id uuid NOT NULL,
    purpose    text NOT NULL CHECK (purpose IN ('batch', 'batch_output')),
    filename   text NOT NULL,
    bytes      bigint NOT NULL CHECK (bytes >= 0),
    sha256     bytea NOT NULL CHECK (length(sha256) = 32),
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects
);
CALL isolate('files');
GRANT SELECT, INSERT, UPDATE ON files TO chancery_tenant, chancery_system;

CREATE TABLE jobs (
    id              uuid NOT NULL UNIQUE,
    tenant_id       uuid NOT NULL REFERENCES tenants,
    project_id      uuid NOT NULL,
    operation       text NOT NULL,
    model           text NOT NULL,
    version_id      uuid NOT NULL REFERENCES model_versions,
    class           text NOT NULL REFERENCES accelerator_classes,
    memory_bytes    bigint NOT NULL CHECK (memory_bytes > 0),
    milli           integer NOT NULL CHECK (milli > 0),
    state           text NOT NULL CHECK (state IN ('in_progress', 'finalizing', 'completed', 'cancelling', 'cancelled')),
    total_lines     bigint NOT NULL CHECK (total_lines > 0),
    completed_lines bigint NOT NULL DEFAULT 0,
    failed_lines    bigint NOT NULL DEFAULT 0,
    input_file_id   uuid NOT NULL,
    output_file_id  uuid,
    error_file_id   uuid,
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    cancelling_at   timestamptz,
    finalizing_at   timestamptz,
    ended_at        timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects,
    FOREIGN KEY (tenant_id, input_file_id) REFERENCES files,
    FOREIGN KEY (tenant_id, output_file_id) REFERENCES files,
    FOREIGN KEY (tenant_id, error_file_id) REFERENCES files,
    CHECK (completed_lines >= 0 AND failed_lines >= 0 AND completed_lines + failed_lines <= total_lines)
);
CREATE INDEX jobs_open ON jobs (created_at) WHERE ended_at IS NULL;
CALL isolate('jobs');
GRANT SELECT, INSERT, UPDATE ON jobs TO chancery_tenant, chancery_system;

-- Consecutive lines of a job's input, leased together. `first_byte` and
-- `bytes` are where they are in the input file.
CREATE TABLE job_chunks (
    tenant_id        uuid NOT NULL,
    job_id           uuid NOT NULL,
    index            integer NOT NULL CHECK (index >= 0),
    first_line       bigint NOT NULL,
    lines            integer NOT NULL CHECK (lines > 0),
    first_byte       bigint NOT NULL,
    bytes            bigint NOT NULL CHECK (bytes > 0),
    state            text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'leased', 'done')),
    lease_worker_id  uuid REFERENCES workers,
    lease_token      uuid,
    lease_expires_at timestamptz,
    attempts         integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, job_id, index),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs,
    CHECK ((state = 'leased') = (lease_token IS NOT NULL)),
    CHECK ((lease_token IS NULL) = (lease_expires_at IS NULL)),
    CHECK ((lease_token IS NULL) = (lease_worker_id IS NULL))
);
CREATE INDEX job_chunks_open ON job_chunks (job_id, index) WHERE state <> 'done';
CREATE INDEX job_chunks_lease ON job_chunks (lease_worker_id) WHERE state = 'leased';
CALL isolate('job_chunks');
GRANT SELECT, INSERT ON job_chunks TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON job_chunks TO chancery_system;

-- One row a line: the primary key is what makes a second result impossible.
CREATE TABLE results (
    tenant_id    uuid NOT NULL,
    job_id       uuid NOT NULL,
    line         bigint NOT NULL CHECK (line >= 0),
    custom_id    text NOT NULL,
    request_id   uuid NOT NULL,
    status_code  integer NOT NULL,
    body         jsonb NOT NULL,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, job_id, line),
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs
);
CALL isolate('results');
GRANT SELECT, INSERT ON results TO chancery_tenant, chancery_system;

CREATE TABLE workloads (
    id           uuid NOT NULL UNIQUE,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    endpoint_id  uuid,
    job_id       uuid,
    version_id   uuid NOT NULL REFERENCES model_versions,
    class        text NOT NULL REFERENCES accelerator_classes,
    memory_bytes bigint NOT NULL CHECK (memory_bytes > 0),
    milli        integer NOT NULL CHECK (milli > 0),
    state        text NOT NULL CHECK (state IN ('pending', 'placed', 'ended')),
    generation   bigint NOT NULL DEFAULT 0,
    reason       text,
    epoch        bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, endpoint_id) REFERENCES endpoints,
    FOREIGN KEY (tenant_id, job_id) REFERENCES jobs,
    CHECK (num_nonnulls(endpoint_id, job_id) = 1)
);
CREATE INDEX workloads_open ON workloads (created_at) WHERE state <> 'ended';
CREATE INDEX workloads_endpoint ON workloads (tenant_id, endpoint_id) WHERE state <> 'ended';
CREATE INDEX workloads_job ON workloads (tenant_id, job_id) WHERE state <> 'ended';
CALL isolate('workloads');
GRANT SELECT ON workloads TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON workloads TO chancery_system;

CREATE TABLE placements (
    id          uuid NOT NULL UNIQUE,
    tenant_id   uuid NOT NULL,
    workload_id uuid NOT NULL,
    generation  bigint NOT NULL,
    worker_id   uuid NOT NULL REFERENCES workers,
    state       text NOT NULL CHECK (state IN ('assigned', 'ready', 'draining', 'ended')),
    detail      text,
    epoch       bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (id, worker_id),
    FOREIGN KEY (tenant_id, workload_id) REFERENCES workloads,
    CHECK ((state = 'ended') = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX placements_one_live ON placements (workload_id) WHERE state <> 'ended';
CREATE UNIQUE INDEX placements_generation ON placements (workload_id, generation);
CREATE INDEX placements_worker ON placements (worker_id) WHERE state <> 'ended';
CALL isolate('placements');
GRANT SELECT ON placements TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON placements TO chancery_system;

-- What a live placement holds. Ending a placement deletes its rows here.
CREATE TABLE placement_devices (
    tenant_id    uuid NOT NULL,
    placement_id uuid NOT NULL,
    worker_id    uuid NOT NULL,
    device_id    uuid NOT NULL,
    memory_bytes bigint NOT NULL CHECK (memory_bytes >= 0),
    milli        integer NOT NULL CHECK (milli >= 0),
    PRIMARY KEY (placement_id, device_id),
    FOREIGN KEY (tenant_id, placement_id) REFERENCES placements,
    FOREIGN KEY (placement_id, worker_id) REFERENCES placements (id, worker_id),
    FOREIGN KEY (device_id, worker_id) REFERENCES devices (id, worker_id)
);
CREATE INDEX placement_devices_device ON placement_devices (device_id);
CALL isolate('placement_devices');
GRANT SELECT ON placement_devices TO chancery_tenant;
GRANT SELECT, INSERT, DELETE ON placement_devices TO chancery_system;

-- Capacity is taken and given back where the row is, in its transaction.
CREATE FUNCTION hold_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE devices SET used_memory_bytes = used_memory_bytes + NEW.memory_bytes, used_milli = used_milli + NEW.milli
            WHERE id = NEW.device_id;
    ELSE
        UPDATE devices SET used_memory_bytes = used_memory_bytes - OLD.memory_bytes, used_milli = used_milli - OLD.milli
            WHERE id = OLD.device_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER placement_devices_hold AFTER INSERT OR DELETE ON placement_devices
    FOR EACH ROW EXECUTE FUNCTION hold_device();

-- An ended placement gives its devices back, whoever ends it.
CREATE FUNCTION release_placement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM placement_devices WHERE placement_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER placements_release AFTER UPDATE OF state ON placements
    FOR EACH ROW WHEN (NEW.state = 'ended' AND OLD.state <> 'ended') EXECUTE FUNCTION release_placement();
