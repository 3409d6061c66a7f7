-- store::endpoints::resolve
SELECT id FROM endpoints WHERE (id = bench.id(2, :t, :k) OR name = :none) AND deleted_at IS NULL /*own endpoints*/;
