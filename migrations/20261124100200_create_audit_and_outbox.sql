-- Append only: no role may change or remove a row. Indexes of the Merkle log
-- are assigned elsewhere, to rows that are already committed.
CREATE TABLE audit_events (
    id        uuid PRIMARY KEY,
    tenant_id uuid REFERENCES tenants,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,
    action    text NOT NULL,
    object    text NOT NULL,
    verdict   text NOT NULL CHECK (verdict IN ('allowed', 'denied')),
    detail    jsonb NOT NULL
);
CREATE INDEX audit_events_tenant ON audit_events (tenant_id, id);
CALL isolate('audit_events');
GRANT SELECT, INSERT ON audit_events TO chancery_tenant, chancery_system;

-- What changed, for the processes that must look. Holds identifiers only,
-- because NOTIFY payloads know no row-level security.
CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    subject    text NOT NULL,
    created_at timestamptz NOT NULL
);
CALL isolate_system('outbox');
CREATE POLICY tenant_inserts ON outbox FOR INSERT TO chancery_tenant WITH CHECK (true);
GRANT INSERT ON outbox TO chancery_tenant;
GRANT SELECT, INSERT, DELETE ON outbox TO chancery_system;

CREATE FUNCTION notify_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery', NEW.topic || ' ' || NEW.subject);
    RETURN NULL;
END
$$;
CREATE TRIGGER outbox_notify AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION notify_outbox();

-- Who leads. Each new leader raises the epoch; every write of a scheduler
-- holds this row's share lock and names the epoch it believes in.
CREATE TABLE leadership (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint NOT NULL,
    holder    text NOT NULL,
    since     timestamptz NOT NULL
);
INSERT INTO leadership VALUES (true, 0, '', 'epoch');
CALL isolate_system('leadership');
GRANT SELECT, UPDATE ON leadership TO chancery_system;
