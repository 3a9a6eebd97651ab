-- rated_usage: one row an identity, model and hour. An adopted table gets our columns, and its
-- numeric(20,9) money becomes plain numeric, which is instant (any other size is a rewrite).
-- Columns that an adopted row has no value for stay NULL: nothing is made up.
SET LOCAL lock_timeout = '800ms';

CREATE TABLE IF NOT EXISTS rated_usage (
    id varchar(32) PRIMARY KEY
);

ALTER TABLE rated_usage
    ADD COLUMN IF NOT EXISTS auth_id varchar(64) NOT NULL,
    ADD COLUMN IF NOT EXISTS resource_id varchar(64) NOT NULL,
    ADD COLUMN IF NOT EXISTS model_id varchar(255) NOT NULL,
    ADD COLUMN IF NOT EXISTS window_start timestamptz NOT NULL,
    ADD COLUMN IF NOT EXISTS window_end timestamptz,
    ADD COLUMN IF NOT EXISTS price_class text NOT NULL DEFAULT 'standard',
    ADD COLUMN IF NOT EXISTS prompt_tokens bigint,
    ADD COLUMN IF NOT EXISTS cached_tokens bigint,
    ADD COLUMN IF NOT EXISTS completion_tokens bigint,
    ADD COLUMN IF NOT EXISTS billable_prompt_tokens bigint,
    ADD COLUMN IF NOT EXISTS event_count bigint,
    ADD COLUMN IF NOT EXISTS cost numeric,
    ADD COLUMN IF NOT EXISTS applied_prompt_rate numeric,
    ADD COLUMN IF NOT EXISTS applied_cached_rate numeric,
    ADD COLUMN IF NOT EXISTS applied_completion_rate numeric,
    ADD COLUMN IF NOT EXISTS currency_code char(3),
    ADD COLUMN IF NOT EXISTS pricebook_digest text,
    ADD COLUMN IF NOT EXISTS run_id text,
    ADD COLUMN IF NOT EXISTS fence bigint,
    ADD COLUMN IF NOT EXISTS rated_at timestamptz;

DO $$
DECLARE
    narrow name;
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'rated_usage'::regclass AND attnum > 0 AND NOT attisdropped
            AND attnotnull AND NOT atthasdef AND attidentity = '' AND attname NOT IN (
            'id', 'auth_id', 'resource_id', 'model_id', 'window_start', 'window_end',
            'price_class', 'prompt_tokens', 'cached_tokens', 'completion_tokens',
            'billable_prompt_tokens', 'event_count', 'cost', 'applied_prompt_rate',
            'applied_cached_rate', 'applied_completion_rate', 'currency_code', 'pricebook_digest',
            'run_id', 'fence', 'rated_at')
    ) THEN
        RAISE EXCEPTION 'rated_usage has a NOT NULL column without a default that rater does not know; give it a default'
            USING ERRCODE = 'RT001';
    END IF;

    FOR narrow IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'rated_usage'::regclass AND NOT attisdropped
            AND attname IN ('cost', 'applied_prompt_rate', 'applied_cached_rate', 'applied_completion_rate')
            AND (atttypid <> 'numeric'::regtype OR atttypmod <> -1)
    LOOP
        EXECUTE format('ALTER TABLE rated_usage ALTER COLUMN %I TYPE numeric', narrow);
    END LOOP;

    -- R13: every row that is written from here on explains itself. NOT VALID: rows adopted
    -- from elsewhere may not, and are told apart by this same sum.
    IF NOT EXISTS (SELECT FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_explains_itself') THEN
        ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_explains_itself CHECK (coalesce(
            cost = billable_prompt_tokens * applied_prompt_rate
                + cached_tokens * applied_cached_rate
                + completion_tokens * applied_completion_rate, false)) NOT VALID;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_money_fits') THEN
        ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_money_fits CHECK (
            scale(cost) <= 12 AND cost >= 0 AND cost < 10000000000000000
            AND scale(applied_prompt_rate) <= 12 AND applied_prompt_rate < 10000000000000000
            AND scale(applied_cached_rate) <= 12 AND applied_cached_rate < 10000000000000000
            AND scale(applied_completion_rate) <= 12 AND applied_completion_rate < 10000000000000000
        ) NOT VALID;
    END IF;
END $$;
