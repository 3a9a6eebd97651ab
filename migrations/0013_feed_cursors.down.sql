SET LOCAL lock_timeout = '250ms';

UPDATE rater_schema SET version = 2 WHERE version = 3;
-- Without the record of what was retired the feed's beginning must not count as the whole story.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('change_feed') AND attname = 'retired_through' AND NOT attisdropped) THEN
        UPDATE change_feed SET whole_story = false WHERE retired_through > 0;
    END IF;
END $$;
ALTER TABLE change_feed
    DROP COLUMN IF EXISTS retired_through,
    DROP COLUMN IF EXISTS feed_id;
