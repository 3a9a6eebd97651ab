-- no-transaction
DROP INDEX CONCURRENTLY IF EXISTS rated_usage_auth_id_window_start_ix;
