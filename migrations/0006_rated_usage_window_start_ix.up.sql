-- no-transaction
-- Reader: the reconcile (R5), and pages in order of the hour.
CREATE INDEX CONCURRENTLY IF NOT EXISTS rated_usage_window_start_ix ON rated_usage (window_start);
