-- Keyed hashes of the codes that stand in for a lost device of one-time codes;
-- each is removed when it is used.
ALTER TABLE principals ADD COLUMN recovery_codes bytea[] NOT NULL DEFAULT '{}';
