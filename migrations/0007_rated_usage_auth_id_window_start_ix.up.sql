-- no-transaction
-- Reader: pages of one identity.
CREATE INDEX CONCURRENTLY IF NOT EXISTS rated_usage_auth_id_window_start_ix
    ON rated_usage (auth_id, window_start);
