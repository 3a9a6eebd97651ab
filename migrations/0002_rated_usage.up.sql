-- rated_usage: one row an identity, model and hour. An adopted table gets our columns, and its
-- numeric(20,9) money becomes plain numeric, which is instant (any other size is a rewrite).
-- Columns that an adopted row has no value for stay NULL: nothing is made up.
SET LOCAL lock_timeout = '250ms';

-- Where the search path finds it, which need not be the schema that a new one would go to.
DO $$
BEGIN
    IF to_regclass('rated_usage') IS NULL THEN
        CREATE TABLE rated_usage (
            id varchar(32) PRIMARY KEY,
            auth_id varchar(64) NOT NULL,
            resource_id varchar(64) NOT NULL,
            model_id varchar(255) NOT NULL,
            window_start timestamptz NOT NULL
        );
    END IF;
END $$;

-- What can't be adopted is refused in words, before anything is locked.
DO $$
DECLARE
    problems text[];
BEGIN
    SELECT array_agg('it is not an ordinary table'::text)
    INTO problems
    FROM pg_class WHERE oid = 'rated_usage'::regclass AND relkind <> 'r';

    SELECT problems || array_agg(format('it has no %s', needed))
    INTO problems
    FROM unnest('{id,auth_id,resource_id,model_id,window_start}'::name[]) AS needed
    WHERE NOT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'rated_usage'::regclass AND attname = needed);

    -- Money of another type than numeric was never exact (R1), or would have to be rewritten.
    SELECT problems || array_agg(
        format('%s is %s, not %s', attname, format_type(atttypid, atttypmod), types[1]) ORDER BY attnum)
    INTO problems
    FROM (VALUES
        ('{varchar,text}'::regtype[],
            '{id,auth_id,resource_id,model_id,price_class,pricebook_digest,run_id}'::name[]),
        ('{bpchar,varchar,text}', '{currency_code}'),
        ('{int8}', '{prompt_tokens,cached_tokens,completion_tokens,billable_prompt_tokens,event_count,fence}'),
        ('{numeric}', '{cost,applied_prompt_rate,applied_cached_rate,applied_completion_rate}'),
        ('{timestamptz}', '{window_start,window_end,rated_at}')) AS known (types, columns)
    JOIN pg_attribute ON attname = ANY (columns)
    WHERE attrelid = 'rated_usage'::regclass AND atttypid <> ALL (types::oid[]);

    SELECT problems || array_agg(
        format('%I is NOT NULL, has no default, and nothing that rater could put there', attname) ORDER BY attnum)
    INTO problems
    FROM pg_attribute
    WHERE attrelid = 'rated_usage'::regclass AND attnum > 0 AND NOT attisdropped
        AND attnotnull AND NOT atthasdef AND attidentity = '' AND attname NOT IN (
        'id', 'auth_id', 'resource_id', 'model_id', 'window_start', 'window_end',
        'price_class', 'prompt_tokens', 'cached_tokens', 'completion_tokens',
        'billable_prompt_tokens', 'event_count', 'cost', 'applied_prompt_rate',
        'applied_cached_rate', 'applied_completion_rate', 'currency_code', 'pricebook_digest',
        'run_id', 'fence', 'rated_at');

    SELECT problems || array_agg(format('another %s is in the way', ix) ORDER BY ix)
    INTO problems
    FROM (VALUES ('rated_usage_window_start_ix', '{window_start}'::text[]),
        ('rated_usage_auth_id_window_start_ix', '{auth_id,window_start}')) AS ours (ix, columns)
    JOIN pg_class c ON c.relname = ix
        AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'rated_usage'::regclass)
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE (i.indrelid, i.indpred IS NULL, ARRAY(SELECT pg_get_indexdef(c.oid, k, false)
            FROM generate_series(1, i.indnatts) k ORDER BY k))
        IS DISTINCT FROM ('rated_usage'::regclass, true, columns);

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'rated_usage can''t be adopted: %; change that and run it again',
            array_to_string(problems, '; ') USING ERRCODE = 'RT001';
    END IF;
END $$;

ALTER TABLE rated_usage
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
    ADD COLUMN IF NOT EXISTS rated_at timestamptz,
    ALTER COLUMN price_class SET DEFAULT 'standard';

-- Widened, never rewritten: money to plain numeric, and text that is too narrow for what we
-- write. A key must hold what an event holds, or one long name would fail every run.
DO $$
DECLARE
    narrow record;
    why text;
BEGIN
    FOR narrow IN
        SELECT attname, CASE WHEN atttypid = 'numeric'::regtype THEN 'numeric' ELSE 'varchar' END AS wide
        FROM pg_attribute u
        LEFT JOIN (VALUES ('id', '', 32), ('auth_id', 'auth_id', 64), ('resource_id', 'resource_id', 64),
                ('model_id', 'model', 255), ('price_class', '', NULL), ('pricebook_digest', '', NULL),
                ('run_id', '', NULL)) AS texts (name, of_event, least_length) ON name = attname
        WHERE attrelid = 'rated_usage'::regclass AND atttypmod <> -1
            AND (atttypid = 'numeric'::regtype AND attname IN (
                    'cost', 'applied_prompt_rate', 'applied_cached_rate', 'applied_completion_rate')
                -- A length is its modifier less 4; -1 is without a limit.
                OR name IS NOT NULL AND (least_length IS NULL OR atttypmod - 4 < least_length
                    OR EXISTS (SELECT FROM pg_attribute e
                        WHERE e.attrelid = 'billing_event'::regclass AND e.attname = of_event
                            AND (e.atttypmod = -1 OR e.atttypmod > u.atttypmod))))
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE rated_usage ALTER COLUMN %I TYPE %s', narrow.attname, narrow.wide);
        EXCEPTION WHEN feature_not_supported THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
            RAISE EXCEPTION 'rated_usage can''t be adopted: % must become %, but %; drop that, run it again, and make it anew',
                narrow.attname, narrow.wide, coalesce(nullif(why, ''), sqlerrm) USING ERRCODE = 'RT001';
        END;
    END LOOP;
END $$;

DO $$
BEGIN
    -- R13: every row that is written from here on explains itself. NOT VALID: rows adopted
    -- from elsewhere may not, and are told apart by this same sum.
    IF NOT EXISTS (SELECT FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_explains_itself') THEN
        ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_explains_itself CHECK (coalesce(
            cost = billable_prompt_tokens * applied_prompt_rate
                + cached_tokens * applied_cached_rate
                + completion_tokens * applied_completion_rate, false)) NOT VALID;
    END IF;
    -- R1: what fits 28 digits, readers take exactly. Zeros at the end don't count: adopted rates
    -- may carry them. NaN and the infinities pass no comparison here.
    IF NOT EXISTS (SELECT FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_money_fits') THEN
        ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_money_fits CHECK (
            cost >= 0 AND cost < 10000000000000000 AND min_scale(cost) <= 12
            AND applied_prompt_rate >= 0 AND applied_prompt_rate < 10000000000000000
            AND min_scale(applied_prompt_rate) <= 12
            AND applied_cached_rate >= 0 AND applied_cached_rate < 10000000000000000
            AND min_scale(applied_cached_rate) <= 12
            AND applied_completion_rate >= 0 AND applied_completion_rate < 10000000000000000
            AND min_scale(applied_completion_rate) <= 12
        ) NOT VALID;
    END IF;
    -- An adopted key may be nullable, and a NULL is unique beside any other. Step 0008 makes of
    -- this, once it is proven, the columns' own NOT NULL.
    IF EXISTS (SELECT FROM pg_attribute
            WHERE attrelid = 'rated_usage'::regclass AND NOT attnotnull AND attname IN (
                'id', 'auth_id', 'resource_id', 'model_id', 'window_start', 'price_class'))
        AND NOT EXISTS (SELECT FROM pg_constraint
            WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_key_is_whole') THEN
        ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_key_is_whole CHECK (
            id IS NOT NULL AND auth_id IS NOT NULL AND resource_id IS NOT NULL
            AND model_id IS NOT NULL AND window_start IS NOT NULL AND price_class IS NOT NULL) NOT VALID;
    END IF;
    -- A narrower key that has the name of ours makes way, until step 0008 drops it.
    IF EXISTS (SELECT FROM pg_class c
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relname = 'rated_usage_natural_key'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'rated_usage'::regclass)
            AND (i.indrelid, i.indisunique, i.indpred IS NULL, ARRAY(SELECT pg_get_indexdef(c.oid, k, false)
                    FROM generate_series(1, i.indnatts) k ORDER BY k))
                IS DISTINCT FROM ('rated_usage'::regclass, true, true,
                    '{auth_id,resource_id,model_id,window_start,price_class}'::text[])) THEN
        EXECUTE format('ALTER INDEX %s.rated_usage_natural_key RENAME TO rated_usage_narrow_key',
            (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'rated_usage'::regclass));
    END IF;
END $$;
