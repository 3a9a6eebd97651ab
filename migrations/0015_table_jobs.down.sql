SET LOCAL lock_timeout = '250ms';

UPDATE rater_schema SET version = 3 WHERE version = 4;
DROP TABLE IF EXISTS audit_disagreement;
DROP TABLE IF EXISTS audit_total;
DROP TABLE IF EXISTS table_job;
