-- no-transaction
DROP INDEX CONCURRENTLY IF EXISTS rated_usage_window_start_ix;
