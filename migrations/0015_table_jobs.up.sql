-- Work that goes row by row over a whole table: how far it is, in the transaction that did the
-- work, so that a killed process's is gone on with and nobody has to guess; and what the audit
-- has found.
SET LOCAL lock_timeout = '250ms';

-- What has our names and isn't ours is another program's, and stays so.
DO $$
DECLARE
    taken text;
BEGIN
    SELECT string_agg(relname, ', ' ORDER BY relname) INTO taken FROM pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
        AND relname IN ('table_job', 'audit_total', 'audit_disagreement')
        AND obj_description(c.oid, 'pg_class') NOT LIKE 'rater: %' IS NOT FALSE;
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % has another program''s %; rename that, or give rater a schema of its own by the search_path',
            current_schema(), taken USING ERRCODE = 'RT001';
    END IF;
END $$;

-- A row a kind of job, its latest one. The owner's claim is short: while a batch is at work its
-- transaction holds the row, and in between the next batch is soon.
CREATE TABLE IF NOT EXISTS table_job (
    job text PRIMARY KEY,
    state text NOT NULL DEFAULT 'never' CHECK (state IN ('never', 'running', 'succeeded', 'failed', 'cancelled')),
    parameters jsonb NOT NULL DEFAULT '{}',
    cursor jsonb NOT NULL DEFAULT '{}',
    rows_done bigint NOT NULL DEFAULT 0,
    rows_all bigint NOT NULL DEFAULT 0,
    rows_passed_over bigint NOT NULL DEFAULT 0,
    worked interval NOT NULL DEFAULT '0',
    rows_per_second numeric,
    eta timestamptz,
    owner uuid,
    owner_until timestamptz,
    started_at timestamptz,
    updated_at timestamptz,
    finished_at timestamptz,
    error text
);
COMMENT ON TABLE table_job IS 'rater: work over whole tables, and how far it is';
COMMENT ON COLUMN table_job.cursor IS 'where the next batch begins';
COMMENT ON COLUMN table_job.rows_all IS 'as counted at the beginning; rows_done once it has succeeded';
COMMENT ON COLUMN table_job.rows_passed_over IS 'of rows_done: could not be read or changed';
COMMENT ON COLUMN table_job.worked IS 'without the time that nobody was at it';
COMMENT ON COLUMN table_job.owner_until IS 'whose batches stop for longer has lost it';
INSERT INTO table_job (job) VALUES ('audit'), ('change_retention') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS audit_total (
    finding text NOT NULL,
    currency_code text NOT NULL,
    rows bigint NOT NULL,
    billed numeric NOT NULL,
    over_billed numeric NOT NULL,
    under_billed numeric NOT NULL,
    PRIMARY KEY (finding, currency_code)
);
COMMENT ON TABLE audit_total IS 'rater: what the latest audit found, all of it, in money';
COMMENT ON COLUMN audit_total.billed IS 'the costs on these rows';
COMMENT ON COLUMN audit_total.currency_code IS 'empty where rows do not say it';

CREATE TABLE IF NOT EXISTS audit_disagreement (
    ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    finding text NOT NULL,
    window_start timestamptz,
    auth_id text,
    resource_id text,
    model_id text,
    price_class text,
    currency_code text,
    billed numeric,
    expected numeric,
    detail text NOT NULL
);
COMMENT ON TABLE audit_disagreement IS 'rater: the first rows that the latest audit found; audit_total counts them all';

UPDATE rater_schema SET version = 4 WHERE version < 4;
