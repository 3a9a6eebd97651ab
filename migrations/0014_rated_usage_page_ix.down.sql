-- no-transaction
DROP INDEX CONCURRENTLY IF EXISTS rated_usage_page_ix;
