-- What a run needs to outlive its process: the plan that it must keep to, when another process
-- took it over, and how often in a row that led to nothing.
SET LOCAL lock_timeout = '250ms';

ALTER TABLE rating_run
    ADD COLUMN IF NOT EXISTS expected_plan_hash text,
    ADD COLUMN IF NOT EXISTS hour_hashes bytea[],
    ADD COLUMN IF NOT EXISTS resumed_at timestamptz,
    ADD COLUMN IF NOT EXISTS fruitless_takeovers integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS refused_rollups bigint,
    -- Runs from before were told by the process that ran them.
    ADD COLUMN IF NOT EXISTS told boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN rating_run.hour_hashes IS 'of the plan, oldest hour first; set before the first commit';
COMMENT ON COLUMN rating_run.remaining_end IS 'where the hours end that are left, once it has no lease';
COMMENT ON COLUMN rating_run.fruitless_takeovers IS 'in a row, without a chunk in between';
COMMENT ON COLUMN rating_run.told IS 'its findings are in a log and in metrics';
COMMENT ON COLUMN rating_run.refused_rollups IS 'deleted and shrunk ones that the brake refused';

-- What its deleted and shrunk rollups lost.
ALTER TABLE rating_run_chunk ADD COLUMN IF NOT EXISTS lost_cost numeric NOT NULL DEFAULT 0;

-- Reader: the sweep, for runs without a process and for ends that nobody has told, and a backfill
-- that ends the runs that it overlaps.
CREATE INDEX IF NOT EXISTS rating_run_open_ix ON rating_run (fence) WHERE finished_at IS NULL OR NOT told;
-- Reader: ListRuns, newest first.
CREATE INDEX IF NOT EXISTS rating_run_created_at_ix ON rating_run (created_at, run_id);

UPDATE rater_schema SET version = 2 WHERE version < 2;
