CREATE TABLE accelerator_classes (
    name        text PRIMARY KEY,
    description text NOT NULL
);
INSERT INTO accelerator_classes VALUES ('cpu', 'Processor cores; a thousand milli-accelerators a core');
CALL isolate_system('accelerator_classes');
CREATE POLICY tenant_reads ON accelerator_classes FOR SELECT TO chancery_tenant USING (true);
GRANT SELECT ON accelerator_classes TO chancery_tenant;
GRANT SELECT, INSERT, UPDATE ON accelerator_classes TO chancery_system;

CREATE TABLE workers (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    pool            text NOT NULL,
    zone            text NOT NULL,
    address         text NOT NULL,
    credential_hash bytea NOT NULL UNIQUE,
    cordoned        boolean NOT NULL DEFAULT false,
    -- False from the moment the scheduler declares it lost until it joins
    -- or reports again.
    live            boolean NOT NULL DEFAULT true,
    seen_at         timestamptz NOT NULL,
    created_at      timestamptz NOT NULL
);
CALL isolate_system('workers');
GRANT SELECT, INSERT, UPDATE ON workers TO chancery_system;

-- used_* are kept by placement_devices' trigger in the transaction that
-- places or ends; the checks refuse what does not fit, whoever asks.
CREATE TABLE devices (
    id                uuid PRIMARY KEY,
    worker_id         uuid NOT NULL REFERENCES workers,
    ordinal           integer NOT NULL CHECK (ordinal >= 0),
    class             text NOT NULL REFERENCES accelerator_classes,
    memory_bytes      bigint NOT NULL CHECK (memory_bytes >= 0),
    milli             integer NOT NULL CHECK (milli >= 0),
    used_memory_bytes bigint NOT NULL DEFAULT 0,
    used_milli        integer NOT NULL DEFAULT 0,
    UNIQUE (worker_id, ordinal),
    UNIQUE (id, worker_id),
    CONSTRAINT devices_memory_fits CHECK (used_memory_bytes BETWEEN 0 AND memory_bytes),
    CONSTRAINT devices_milli_fits CHECK (used_milli BETWEEN 0 AND milli)
);
CALL isolate_system('devices');
GRANT SELECT, INSERT, UPDATE, DELETE ON devices TO chancery_system;
