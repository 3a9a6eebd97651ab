-- What a run needs and leaves: its lease (R8), its record with a row a chunk, the pricebook it
-- began with, and the anomalies of each hour as the latest run left them.

-- What has our names and isn't ours is another program's, and stays so. Tables of ours say
-- whose they are in their comments.
DO $$
DECLARE
    taken text;
BEGIN
    SELECT string_agg(relname, ', ' ORDER BY relname) INTO taken FROM pg_class c
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
        AND relname IN ('rating_fence_seq', 'rating_lease', 'pricebook', 'rating_run', 'rating_run_chunk',
            'rating_anomaly', 'change_batch', 'rated_usage_change', 'change_feed', 'rater_schema')
        AND obj_description(c.oid, 'pg_class') NOT LIKE 'rater: %' IS NOT FALSE;
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % has another program''s %; rename that, or give rater a schema of its own by the search_path',
            current_schema(), taken USING ERRCODE = 'RT001';
    END IF;
END $$;

-- Fences only grow, over a restore and a reinstall too: they start above what rows carry.
CREATE SEQUENCE IF NOT EXISTS rating_fence_seq AS bigint;
COMMENT ON SEQUENCE rating_fence_seq IS 'rater: fences of leases';
SELECT setval('rating_fence_seq', 1 + greatest(
    (SELECT max(fence) FROM rated_usage),
    (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM rating_fence_seq)), false);

CREATE TABLE IF NOT EXISTS rating_lease (
    run_id text PRIMARY KEY,
    during tstzrange NOT NULL,
    fence bigint NOT NULL DEFAULT nextval('rating_fence_seq'),
    expires_at timestamptz NOT NULL,
    CONSTRAINT rating_lease_no_overlap EXCLUDE USING gist (during WITH &&),
    -- A side without a limit is NULL, which a CHECK alone would let pass.
    CONSTRAINT rating_lease_whole_hours CHECK (coalesce(
        lower_inc(during) AND NOT upper_inc(during)
        AND isfinite(lower(during)) AND isfinite(upper(during))
        AND mod(extract(epoch FROM lower(during)), 3600) = 0
        AND mod(extract(epoch FROM upper(during)), 3600) = 0, false))
);
COMMENT ON TABLE rating_lease IS 'rater: the windows that are being rated';

CREATE TABLE IF NOT EXISTS pricebook (
    digest text PRIMARY KEY,
    pricebook_yaml text NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pricebook IS 'rater: every pricebook that a run began with';

CREATE TABLE IF NOT EXISTS rating_run (
    run_id text PRIMARY KEY,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    trigger text NOT NULL CHECK (trigger IN ('routine', 'backfill')),
    rate_basis text NOT NULL CHECK (rate_basis IN ('frozen', 'pricebook')),
    state text NOT NULL
        CHECK (state IN ('pending', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    pricebook_digest text NOT NULL REFERENCES pricebook,
    currency_code char(3) NOT NULL,
    fence bigint NOT NULL,
    requested_by text NOT NULL,
    request_id text,
    request_hash text NOT NULL,
    reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    error_reason text,
    error_message text,
    remaining_end timestamptz
);
COMMENT ON TABLE rating_run IS 'rater: one row a run';
-- Reader: a repeated request finds its run.
CREATE INDEX IF NOT EXISTS rating_run_request_id_ix ON rating_run (request_id) WHERE request_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS rating_run_chunk (
    run_id text NOT NULL REFERENCES rating_run ON DELETE CASCADE,
    chunk_start timestamptz NOT NULL,
    chunk_end timestamptz NOT NULL,
    batch_id uuid,
    events bigint NOT NULL,
    rated_events bigint NOT NULL,
    unpriced_events bigint NOT NULL,
    unattributable_events bigint NOT NULL,
    ambiguous_base_events bigint NOT NULL,
    malformed_events bigint NOT NULL,
    clamped_events bigint NOT NULL,
    rollups bigint NOT NULL,
    inserted_rollups bigint NOT NULL,
    updated_rollups bigint NOT NULL,
    unchanged_rollups bigint NOT NULL,
    reconciled_deletions bigint NOT NULL,
    shrunk_rollups bigint NOT NULL,
    rate_drift_rollups bigint NOT NULL,
    unexplained_rollups bigint NOT NULL,
    previous_cost numeric NOT NULL,
    total_cost numeric NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, chunk_start)
);
COMMENT ON TABLE rating_run_chunk IS 'rater: progress and results of runs';

CREATE TABLE IF NOT EXISTS rating_anomaly (
    window_start timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('unattributable', 'malformed', 'unpriced', 'ambiguous_base')),
    auth_id text NOT NULL,
    resource_id text NOT NULL,
    model_id text NOT NULL,
    base_models text[] NOT NULL,
    events bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    sample_request_id text,
    run_id text NOT NULL,
    PRIMARY KEY (window_start, kind, auth_id, resource_id, model_id)
);
COMMENT ON TABLE rating_anomaly IS 'rater: what could not be billed, as the latest run left each hour';
COMMENT ON COLUMN rating_anomaly.auth_id IS 'empty where the events had none, like the other two';
