-- What each duty needs of the database, and nothing else: revoke any line, and the duty fails,
-- which a test holds. Run it after every `rater migrate up`, as a superuser or as the owner of the
-- tables, with the search_path that rater has:
--
--     psql -X -v ON_ERROR_STOP=1 --single-transaction -f docs/grants.sql "$DATABASE_URL"
--
-- It can be run again, and it takes nothing away.
--
--     rater_reader     reads rated usage, its changes, runs and anomalies: with SQL alone, or
--                      through a service that serves readers
--     rater_rating     rates, audits, and retires old changes
--     rater_ingest     stores events
--     rater_migrator   owns the schema; `rater migrate`
--
-- They are groups: each service logs in with a user of its own that is a member of one. That users
-- may connect to the database is PostgreSQL's default, and yours to grant where it is not.

DO $$
DECLARE
    duty name;
BEGIN
    FOREACH duty IN ARRAY '{rater_reader,rater_rating,rater_ingest,rater_migrator}'::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = duty) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', duty);
        END IF;
    END LOOP;
END $$;

-- Whoever rates may all that a reader may: a run compares with what is there, and its result is
-- read.
GRANT rater_reader TO rater_rating;

-- Names are found only in schemas that a role may use; everybody may use public. An adopted table
-- may have a schema of its own.
DO $$
DECLARE
    needed record;
BEGIN
    FOR needed IN
        SELECT duty, nspname AS place
        FROM (VALUES ('rater_reader', 'rated_usage'), ('rater_reader', 'rating_run'),
            ('rater_rating', 'billing_event'), ('rater_ingest', 'billing_event'),
            ('rater_ingest', 'rater_schema')) AS reads (duty, of_table)
        JOIN pg_class c ON c.oid = of_table::regclass
        JOIN pg_namespace n ON n.oid = c.relnamespace
    LOOP
        IF NOT has_schema_privilege(needed.duty, needed.place, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', needed.place, needed.duty);
        END IF;
    END LOOP;
END $$;

-- ------------------------------------------------------------------------------------- reader

-- Whether this build works with the schema: at the start, and for readiness.
GRANT SELECT ON rater_schema TO rater_reader;
-- GetRatedUsage and SummarizeRatedUsage.
GRANT SELECT ON rated_usage TO rater_reader;
-- StreamRatedUsageChanges: each change, its place in the feed, and how far back the feed goes. The
-- last two also make the change_cursor of GetRatedUsage.
GRANT SELECT ON rated_usage_change, change_batch, change_feed TO rater_reader;
-- GetRun, ListRuns and WatchRun: the record, and the sum of its committed chunks.
GRANT SELECT ON rating_run, rating_run_chunk TO rater_reader;
-- How far work over whole tables is (metrics, readiness), and what the audit found.
GRANT SELECT ON table_job, audit_total, audit_disagreement TO rater_reader;
-- ListAnomalies.
GRANT SELECT ON rating_anomaly TO rater_reader;
-- GetPricebook, of one that priced a row before.
GRANT SELECT ON pricebook TO rater_reader;

-- ------------------------------------------------------------------------------------- rating

-- What is rated, and a sample of what is not. Nothing of it is written, and who used it in person
-- (user_id, group_id) is not read.
GRANT SELECT (request_id, auth_id, resource_id, model, base_model, prompt_tokens, cached_tokens,
    completion_tokens, event_ts, created_at) ON billing_event TO rater_rating;
-- Rollups: new ones, vanished ones, and changed ones, whose key never changes.
GRANT INSERT, DELETE ON rated_usage TO rater_rating;
GRANT UPDATE (window_end, prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens,
    event_count, cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate,
    currency_code, pricebook_digest, run_id, fence, rated_at) ON rated_usage TO rater_rating;
-- The change records of the same, and their places in the feed.
GRANT INSERT ON rated_usage_change, change_batch TO rater_rating;
-- Anomalies, as the state of each hour.
GRANT INSERT, DELETE ON rating_anomaly TO rater_rating;
GRANT UPDATE (base_models, events, prompt_tokens, cached_tokens, completion_tokens,
    sample_request_id, run_id) ON rating_anomaly TO rater_rating;
-- Leases: taken with a new fence, renewed, cut down, given back, or taken away when they expired.
GRANT SELECT, INSERT, DELETE ON rating_lease TO rater_rating;
GRANT UPDATE (during, expires_at) ON rating_lease TO rater_rating;
GRANT USAGE ON SEQUENCE rating_fence_seq TO rater_rating;
-- The record of a run, what its chunks did, and the pricebook that it began with.
GRANT INSERT ON rating_run, rating_run_chunk, pricebook TO rater_rating;
GRANT UPDATE (state, resumed_at, finished_at, error_reason, error_message, remaining_end,
    hour_hashes, fruitless_takeovers, refused_rollups, told) ON rating_run TO rater_rating;
-- Retention: old changes are deleted, their batches, and how far is written down first.
GRANT DELETE ON rated_usage_change, change_batch TO rater_rating;
GRANT UPDATE (retired_through) ON change_feed TO rater_rating;
-- How far retention and the audit are, in their own transactions.
GRANT UPDATE ON table_job TO rater_rating;
-- What the audit finds; each begins by forgetting what the last one found.
GRANT INSERT, DELETE ON audit_total, audit_disagreement TO rater_rating;
GRANT UPDATE (rows, billed, over_billed, under_billed) ON audit_total TO rater_rating;

-- ------------------------------------------------------------------------------------- ingest

-- Whether this build works with the schema.
GRANT SELECT ON rater_schema TO rater_ingest;
-- RecordEvents stores what is not there and compares what is. When it was stored (created_at) is
-- the database's to say. An adopted table with a serial column wants USAGE on its sequence, too.
GRANT INSERT (request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model,
    adapter, prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted,
    event_ts) ON billing_event TO rater_ingest;
GRANT SELECT (request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model,
    adapter, prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted,
    event_ts) ON billing_event TO rater_ingest;

-- ----------------------------------------------------------------------------------- migrator

-- The tables are its own; the next version's are made beside them.
DO $$
BEGIN
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO rater_migrator', current_schema());
END $$;
