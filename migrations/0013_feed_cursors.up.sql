-- What a cursor of the change feed is held against: which feed it is of, and how far back the
-- feed still tells everything.
SET LOCAL lock_timeout = '250ms';

-- The next step makes an index of this name.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class c
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relname = 'rated_usage_page_ix'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'rated_usage'::regclass)
            AND (i.indrelid, i.indpred IS NULL, ARRAY(SELECT pg_get_indexdef(c.oid, k, false)
                    FROM generate_series(1, i.indnatts) k ORDER BY k))
                IS DISTINCT FROM ('rated_usage'::regclass, true,
                    '{window_start,auth_id,resource_id,model_id,price_class}'::text[])) THEN
        RAISE EXCEPTION 'rated_usage can''t be adopted: another rated_usage_page_ix is in the way; change that and run it again'
            USING ERRCODE = 'RT001';
    END IF;
END $$;

ALTER TABLE change_feed
    ADD COLUMN IF NOT EXISTS feed_id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN IF NOT EXISTS retired_through bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN change_feed.feed_id IS 'in every cursor; another one makes all cursors unknown, as a restored database wants it';
COMMENT ON COLUMN change_feed.retired_through IS 'changes up to this position are retired, or about to be; its batch itself is kept';

UPDATE rater_schema SET version = 3 WHERE version < 3;
