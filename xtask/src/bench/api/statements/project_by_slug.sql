-- store::projects::by_slug
SELECT id, tenant_id, slug, name, created_at FROM projects WHERE slug = 'project-0000';
