-- no-transaction
-- Reader: pages in their order, also in the middle of an hour with many rollups.
CREATE INDEX CONCURRENTLY IF NOT EXISTS rated_usage_page_ix ON rated_usage
    (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C", price_class COLLATE "C");
