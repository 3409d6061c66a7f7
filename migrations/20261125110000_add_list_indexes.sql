-- Files are listed by time: ids of assembled files do not sort by it.
CREATE INDEX files_time ON files (tenant_id, created_at, id) WHERE deleted_at IS NULL;
