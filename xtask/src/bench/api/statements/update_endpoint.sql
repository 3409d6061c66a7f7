-- store::endpoints::scale
UPDATE endpoints SET replicas = :k::integer % 100, revision = revision + 1
WHERE id = bench.id(2, :t, :k) AND deleted_at IS NULL AND (nullif(:none, '-') IS NULL OR revision = 1);
