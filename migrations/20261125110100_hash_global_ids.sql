-- An id is unique in the installation, but only a tenant's rows are ever in
-- order of it. An ordered index over everybody's ids lets the planner walk
-- through other tenants' rows to fill a page, which gets dearer with each
-- tenant; one by hash finds a row and cannot be walked.
ALTER TABLE endpoints DROP CONSTRAINT endpoints_id_key, ADD CONSTRAINT endpoints_id_key EXCLUDE USING hash (id WITH =);
ALTER TABLE jobs DROP CONSTRAINT jobs_id_key, ADD CONSTRAINT jobs_id_key EXCLUDE USING hash (id WITH =);
ALTER TABLE files DROP CONSTRAINT files_id_key, ADD CONSTRAINT files_id_key EXCLUDE USING hash (id WITH =);
ALTER TABLE api_keys DROP CONSTRAINT api_keys_id_key, ADD CONSTRAINT api_keys_id_key EXCLUDE USING hash (id WITH =);
