-- The trace that a run belongs to, so that whoever goes on with it tells of it there.
SET LOCAL lock_timeout = '250ms';

ALTER TABLE rating_run ADD COLUMN IF NOT EXISTS traceparent text;
COMMENT ON COLUMN rating_run.traceparent IS 'W3C trace context of the call that began it; none where nothing was traced';

UPDATE rater_schema SET version = 5 WHERE version < 5;
