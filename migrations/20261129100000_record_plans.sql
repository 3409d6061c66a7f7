-- What the scheduler's planner was told and asked, page by page, so that its
-- decisions can be made again: domain/src/planner/record.rs. A page is kept
-- before what it decided is carried out, and ends the record of none but its own
-- leader.
CREATE TABLE plans (
    epoch  bigint NOT NULL,
    number bigint NOT NULL CHECK (number >= 0),
    at     timestamptz NOT NULL,
    -- The planner began there: the page needs none before it.
    began  boolean NOT NULL,
    -- Of the page.
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    -- A line of JSON, compressed as gzip does.
    page   bytea NOT NULL,
    PRIMARY KEY (epoch, number)
);
CREATE INDEX plans_began ON plans (epoch, number) WHERE began;
CALL isolate_system('plans');
GRANT SELECT, INSERT, DELETE ON plans TO chancery_system;

-- The plan that placed, as epoch-number, the digest of what it was made from,
-- and what the place costs.
ALTER TABLE placements
    ADD COLUMN plan   text,
    ADD COLUMN inputs bytea CHECK (octet_length(inputs) = 32),
    ADD COLUMN cost   jsonb;
-- The plan that found the reason why it waits.
ALTER TABLE workloads ADD COLUMN plan text;
