-- store::projects::by_slug
SELECT id, tenant_id, slug, name, limits, revision, created_at FROM projects WHERE slug = 'project-0000' AND deleted_at IS NULL;
