-- no-transaction
DROP INDEX CONCURRENTLY IF EXISTS billing_event_rating_instant_ix;
