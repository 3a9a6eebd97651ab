-- no-transaction
-- The scan of an hour (R7): no other expression can serve it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS billing_event_rating_instant_ix
    ON billing_event ((COALESCE(event_ts, created_at)));
