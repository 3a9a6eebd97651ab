-- billing_event: one row a metered request. It may exist already, with millions of rows and
-- other writers, so it is adopted: what is missing is added with constant defaults (instant),
-- what cannot be adopted is refused in words (SQLSTATE RT001), and no row is touched.
--
-- A short lock_timeout, here and in later steps: whoever waits for a strong lock keeps readers
-- waiting behind it. The migrator tries again.
SET LOCAL lock_timeout = '250ms';

-- Where the search path finds it, which need not be the schema that a new one would go to.
DO $$
BEGIN
    IF to_regclass('billing_event') IS NULL THEN
        CREATE TABLE billing_event (request_id varchar(255) PRIMARY KEY);
    END IF;
END $$;

-- Before anything is locked.
DO $$
DECLARE
    problems text[];
    timeless boolean;
BEGIN
    SELECT array_agg('it is not an ordinary table'::text)
    INTO problems
    FROM pg_class WHERE oid = 'billing_event'::regclass AND relkind <> 'r';

    SELECT problems || array_agg(
        format('%s is %s, not %s', attname, format_type(atttypid, atttypmod), types[1]) ORDER BY attnum)
    INTO problems
    FROM (VALUES
        ('{varchar,text}'::regtype[], '{request_id,auth_id,user_id,group_id,resource_id,resource_type,
            model,base_model,adapter,finish_reason,gpu_type}'::name[]),
        ('{int4,int8}', '{prompt_tokens,cached_tokens,completion_tokens}'),
        ('{bool}', '{aborted}'),
        ('{timestamptz}', '{event_ts,created_at}')) AS known (types, columns)
    JOIN pg_attribute ON attname = ANY (columns)
    WHERE attrelid = 'billing_event'::regclass AND atttypid <> ALL (types::oid[]);

    SELECT problems || array_agg(
        format('%I is NOT NULL, has no default, and nothing that rater could put there', attname) ORDER BY attnum)
    INTO problems
    FROM pg_attribute
    WHERE attrelid = 'billing_event'::regclass AND attnum > 0 AND NOT attisdropped
        AND attnotnull AND NOT atthasdef AND attidentity = '' AND attname NOT IN (
        'request_id', 'auth_id', 'user_id', 'group_id', 'resource_id', 'resource_type',
        'model', 'base_model', 'adapter', 'prompt_tokens', 'cached_tokens',
        'completion_tokens', 'finish_reason', 'gpu_type', 'aborted', 'event_ts', 'created_at');

    IF NOT EXISTS (
        SELECT FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = 'billing_event'::regclass AND i.indisunique AND i.indisvalid
            AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'request_id'
    ) THEN
        problems := problems || 'it has no primary key or unique index on request_id alone'::text;
    END IF;

    IF EXISTS (
        SELECT FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relname = 'billing_event_rating_instant_ix'
            AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'billing_event'::regclass)
            AND (i.indrelid, i.indpred IS NULL, i.indnatts, pg_get_indexdef(c.oid, 1, false))
                IS DISTINCT FROM ('billing_event'::regclass, true, 1, 'COALESCE(event_ts, created_at)')
    ) THEN
        problems := problems || 'another billing_event_rating_instant_ix is in the way'::text;
    END IF;

    -- The time of adoption is not the time of a row.
    IF NOT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'billing_event'::regclass AND attname = 'created_at') THEN
        IF EXISTS (SELECT FROM pg_attribute
            WHERE attrelid = 'billing_event'::regclass AND attname = 'event_ts') THEN
            EXECUTE 'SELECT EXISTS (SELECT FROM billing_event WHERE event_ts IS NULL)' INTO timeless;
        ELSE
            SELECT EXISTS (SELECT FROM billing_event) INTO timeless;
        END IF;
        IF timeless THEN
            problems := problems || 'it has no created_at, and rows without an event_ts'::text;
        END IF;
    END IF;

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'billing_event can''t be adopted: %; change that and run it again',
            array_to_string(problems, '; ') USING ERRCODE = 'RT001';
    END IF;
END $$;

ALTER TABLE billing_event
    ADD COLUMN IF NOT EXISTS auth_id varchar(64),
    ADD COLUMN IF NOT EXISTS user_id varchar(32),
    ADD COLUMN IF NOT EXISTS group_id varchar(32),
    ADD COLUMN IF NOT EXISTS resource_id varchar(64),
    ADD COLUMN IF NOT EXISTS resource_type varchar(64),
    ADD COLUMN IF NOT EXISTS model varchar(255),
    ADD COLUMN IF NOT EXISTS base_model varchar(255),
    ADD COLUMN IF NOT EXISTS adapter varchar(255),
    ADD COLUMN IF NOT EXISTS prompt_tokens integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cached_tokens integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completion_tokens integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS finish_reason varchar(64),
    ADD COLUMN IF NOT EXISTS gpu_type varchar(64),
    ADD COLUMN IF NOT EXISTS aborted boolean,
    ADD COLUMN IF NOT EXISTS event_ts timestamptz,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now();

-- What an event may lack, its row may lack: a NULL is counted as unattributable (R3), where a
-- refused row would be lost.
DO $$
DECLARE
    required name;
BEGIN
    FOR required IN
        SELECT attname FROM pg_attribute a
        WHERE attrelid = 'billing_event'::regclass AND attnotnull AND attname IN (
            'auth_id', 'user_id', 'group_id', 'resource_id', 'resource_type', 'model', 'base_model',
            'adapter', 'finish_reason', 'gpu_type', 'aborted', 'event_ts')
            AND NOT EXISTS (SELECT FROM pg_index i
                WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
    LOOP
        EXECUTE format('ALTER TABLE billing_event ALTER COLUMN %I DROP NOT NULL', required);
    END LOOP;
    IF EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'billing_event'::regclass AND attname = 'created_at' AND NOT atthasdef) THEN
        ALTER TABLE billing_event ALTER COLUMN created_at SET DEFAULT now();
    END IF;
END $$;
