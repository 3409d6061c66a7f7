-- Between how many replicas the autoscaler may choose. Without either, `replicas`
-- is fixed; with them, `replicas` is what it chose last.
ALTER TABLE endpoints
    ADD COLUMN min_replicas   integer,
    ADD COLUMN max_replicas   integer,
    -- What it aims at, per replica (domain/src/autoscaling.rs).
    ADD COLUMN target_queued         integer NOT NULL DEFAULT 2     CHECK (target_queued BETWEEN 1 AND 1000),
    ADD COLUMN target_tokens         integer NOT NULL DEFAULT 16384 CHECK (target_tokens BETWEEN 1 AND 100000000),
    ADD COLUMN target_first_token_ms integer NOT NULL DEFAULT 5000  CHECK (target_first_token_ms BETWEEN 1 AND 600000),
    ADD COLUMN idle_secs             integer NOT NULL DEFAULT 600   CHECK (idle_secs BETWEEN 1 AND 604800),
    -- Why it chose this number, for people, and when.
    ADD COLUMN scaled_why text,
    ADD COLUMN scaled_at  timestamptz,
    ADD CONSTRAINT endpoints_range CHECK ((min_replicas IS NULL) = (max_replicas IS NULL)
        AND (min_replicas IS NULL OR 0 <= min_replicas AND min_replicas <= replicas
             AND replicas <= max_replicas AND max_replicas BETWEEN 1 AND 1000)),
    ADD CHECK ((scaled_why IS NULL) = (scaled_at IS NULL));
CREATE INDEX endpoints_scaled ON endpoints (id) WHERE min_replicas IS NOT NULL AND deleted_at IS NULL;

-- What workers say of the load of replicas whose number is chosen. Lost in a
-- crash; the next report brings it back.
CREATE UNLOGGED TABLE placement_loads (
    placement_id   uuid PRIMARY KEY,
    endpoint_id    uuid NOT NULL,
    -- Requests that wait for their first token, in thousandths, of the last seconds.
    queued_milli   bigint NOT NULL CHECK (queued_milli >= 0),
    -- Tokens of requests that are being answered, of the last seconds.
    tokens         bigint NOT NULL CHECK (tokens >= 0),
    -- From the request to its first token, of the last seconds.
    first_token_ms bigint CHECK (first_token_ms >= 0),
    -- For how long no request was there.
    idle_ms        bigint NOT NULL CHECK (idle_ms >= 0),
    reported_at    timestamptz NOT NULL
);
CREATE INDEX placement_loads_endpoint ON placement_loads (endpoint_id);
CALL isolate_system('placement_loads');
GRANT SELECT, INSERT, UPDATE, DELETE ON placement_loads TO chancery_system;

-- Requests that gateways hold until a replica is there, of each of their processes.
CREATE UNLOGGED TABLE held_requests (
    gateway_id  uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    held        integer NOT NULL CHECK (held > 0),
    told_at     timestamptz NOT NULL,
    PRIMARY KEY (endpoint_id, gateway_id)
);
CALL isolate_system('held_requests');
GRANT SELECT, INSERT, UPDATE, DELETE ON held_requests TO chancery_system;

-- Which replicas go first when others need the room follows from the least number.
CREATE OR REPLACE FUNCTION note_endpoints() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO planner_changes (kind, id) SELECT DISTINCT 'endpoint', id FROM (
        SELECT id, replicas, min_replicas, priority, version_id, class, memory_bytes, milli, deleted_at FROM new_rows
        EXCEPT SELECT id, replicas, min_replicas, priority, version_id, class, memory_bytes, milli, deleted_at
        FROM old_rows) changed;
    RETURN NULL;
END
$$;
