SET LOCAL lock_timeout = '250ms';

DROP TABLE IF EXISTS change_feed;
DROP TABLE IF EXISTS rated_usage_change;
DROP TABLE IF EXISTS change_batch;
