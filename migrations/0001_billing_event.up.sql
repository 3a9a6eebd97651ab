-- billing_event: one row a metered request. It may exist already, with millions of rows and
-- other writers, so it is adopted: columns are added with constant defaults (instant), and
-- nothing that is there is changed.
SET LOCAL lock_timeout = '800ms';

CREATE TABLE IF NOT EXISTS billing_event (
    request_id varchar(255) PRIMARY KEY
);

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

-- What cannot be adopted safely is refused here, in words.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'billing_event'::regclass AND attname IN ('event_ts', 'created_at')
            AND atttypid <> 'timestamptz'::regtype
    ) THEN
        RAISE EXCEPTION 'billing_event.event_ts and created_at must be timestamptz to be adopted'
            USING ERRCODE = 'RT001';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = 'billing_event'::regclass AND i.indisunique AND i.indisvalid
            AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'request_id'
    ) THEN
        RAISE EXCEPTION 'billing_event needs a primary key or unique index on request_id to be adopted'
            USING ERRCODE = 'RT001';
    END IF;
    IF EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = 'billing_event'::regclass AND attnum > 0 AND NOT attisdropped
            AND attnotnull AND NOT atthasdef AND attidentity = '' AND attname NOT IN (
            'request_id', 'auth_id', 'user_id', 'group_id', 'resource_id', 'resource_type',
            'model', 'base_model', 'adapter', 'prompt_tokens', 'cached_tokens',
            'completion_tokens', 'finish_reason', 'gpu_type', 'aborted', 'event_ts', 'created_at')
    ) THEN
        RAISE EXCEPTION 'billing_event has a NOT NULL column without a default that rater does not know; give it a default'
            USING ERRCODE = 'RT001';
    END IF;
END $$;
