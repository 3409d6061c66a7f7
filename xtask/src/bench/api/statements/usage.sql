-- store::usage::summary
SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, project_id, model,
  count(*) AS requests, sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint, sum(accelerator_ms)::bigint
FROM usage
WHERE at >= :from AND at < :to AND (nullif(:none, '-') IS NULL OR project_id = nullif(:none, '-')::uuid) /*own usage*/
GROUP BY 1, 2, 3 ORDER BY 1 DESC, 2, 3 LIMIT 10000;
