SET LOCAL lock_timeout = '250ms';

UPDATE rater_schema SET version = 1 WHERE version = 2;
DROP INDEX IF EXISTS rating_run_created_at_ix;
DROP INDEX IF EXISTS rating_run_open_ix;
ALTER TABLE rating_run_chunk DROP COLUMN IF EXISTS lost_cost;
ALTER TABLE rating_run
    DROP COLUMN IF EXISTS told,
    DROP COLUMN IF EXISTS refused_rollups,
    DROP COLUMN IF EXISTS fruitless_takeovers,
    DROP COLUMN IF EXISTS resumed_at,
    DROP COLUMN IF EXISTS hour_hashes,
    DROP COLUMN IF EXISTS expected_plan_hash;
COMMENT ON COLUMN rating_run.remaining_end IS NULL;
