SET LOCAL lock_timeout = '250ms';

DROP TABLE IF EXISTS rating_anomaly;
DROP TABLE IF EXISTS rating_run_chunk;
DROP TABLE IF EXISTS rating_run;
DROP TABLE IF EXISTS pricebook;
DROP TABLE IF EXISTS rating_lease;
DROP SEQUENCE IF EXISTS rating_fence_seq;
