-- store::files::list
SELECT id, tenant_id, project_id, purpose, filename, bytes, sha256, created_at FROM files
WHERE deleted_at IS NULL AND (nullif(:none, '-') IS NULL OR purpose = :none)
  AND (created_at, id) < (:time, :after) /*own files*/
ORDER BY created_at DESC, id DESC LIMIT 51;
