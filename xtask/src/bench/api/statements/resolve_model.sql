-- store::jobs::resolve_model
SELECT id, digest, manifest FROM (
  SELECT 0 AS rank, v.id, v.digest, v.manifest, v.created_at
  FROM endpoints e JOIN model_versions v ON v.id = e.version_id
  WHERE e.name = :model AND e.deleted_at IS NULL
  UNION ALL
  SELECT CASE WHEN m.tenant_id IS NULL THEN 2 ELSE 1 END, v.id, v.digest, v.manifest, v.created_at
  FROM models m JOIN model_versions v ON v.model_id = m.id
  WHERE m.name = :model
) found
ORDER BY rank, created_at DESC, id DESC LIMIT 1;
