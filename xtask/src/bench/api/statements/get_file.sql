-- store::files::get
SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at
FROM files WHERE id = bench.id(4, :t, :k) AND deleted_at IS NULL /*own files*/;
