-- The end of jobs is looked for all the time, among all that wait: by indexes
-- that hold nothing else.
CREATE INDEX jobs_ending ON jobs (created_at) WHERE state IN ('finalizing', 'cancelling');
CREATE INDEX job_chunks_exhausted ON job_chunks (job_id, index) WHERE state = 'waiting' AND attempts >= 5;
