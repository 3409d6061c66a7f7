-- store::endpoints::scale
UPDATE endpoints SET replicas = :k::integer % 100 WHERE id = bench.id(2, :t, :k) AND deleted_at IS NULL;
