SET LOCAL lock_timeout = '250ms';

DROP TABLE IF EXISTS rater_schema;
