-- store::files::list, where the page begins
SELECT created_at FROM files WHERE id = :after;
