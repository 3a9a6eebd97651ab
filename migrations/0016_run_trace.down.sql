SET LOCAL lock_timeout = '250ms';

UPDATE rater_schema SET version = 4 WHERE version = 5;
ALTER TABLE rating_run DROP COLUMN IF EXISTS traceparent;
