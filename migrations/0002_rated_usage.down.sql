-- Our checks go, so that whoever wrote the table before can write it again. The table, its
-- rows and its columns stay.
SET LOCAL lock_timeout = '250ms';

ALTER TABLE IF EXISTS rated_usage
    DROP CONSTRAINT IF EXISTS rated_usage_explains_itself,
    DROP CONSTRAINT IF EXISTS rated_usage_money_fits,
    DROP CONSTRAINT IF EXISTS rated_usage_key_is_whole;
