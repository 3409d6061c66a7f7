-- store::jobs::create; the job keeps its id for its chunk
SELECT id, bench.fresh() AS job FROM files WHERE id = bench.id(4, :t, :k) AND deleted_at IS NULL FOR SHARE \gset
INSERT INTO jobs (id, tenant_id, project_id, operation, model, version_id, class, memory_bytes, milli,
  state, total_lines, input_file_id, metadata, created_at)
VALUES (:job, bench.id(0, :t, 0), bench.id(1, :t, 0), '/v1/chat/completions', 'catalogue', '01900000-0000-7000-8000-00000000000b',
  'cpu', 1000000000, 500, 'in_progress', 1, bench.id(4, :t, :k), '{}', now());
INSERT INTO job_chunks (tenant_id, job_id, index, first_line, lines, first_byte, bytes)
SELECT bench.id(0, :t, 0), :job::uuid, c.* FROM UNNEST('{0}'::integer[], '{0}'::bigint[], '{1}'::integer[], '{0}'::bigint[], '{100}'::bigint[]) AS c;
