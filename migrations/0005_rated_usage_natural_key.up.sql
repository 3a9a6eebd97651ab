-- no-transaction
-- One rollup an identity, model, hour and price class.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS rated_usage_natural_key
    ON rated_usage (auth_id, resource_id, model_id, window_start, price_class);
