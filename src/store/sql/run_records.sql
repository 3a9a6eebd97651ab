-- Runs, newest first, each with the sum of its committed chunks, in one snapshot: one run by its
-- id ($1), or a page of those in some states ($2) with some triggers ($3), after a key ($4, $5).
-- An empty list filters nothing.
SELECT r.run_id, r.window_start, r.window_end, r.trigger, r.rate_basis, r.state, r.pricebook_digest,
    r.currency_code, r.requested_by, r.request_id, r.reason, r.expected_plan_hash, r.created_at,
    r.started_at, r.resumed_at, r.finished_at, r.error_reason, r.error_message, r.remaining_end,
    r.refused_rollups, r.traceparent, c.*
FROM (
    SELECT *, coalesce(resumed_at, started_at) AS began_at FROM rating_run
    WHERE ($1::text IS NULL OR run_id = $1)
        AND (cardinality($2::text[]) = 0 OR state = ANY ($2))
        AND (cardinality($3::text[]) = 0 OR trigger = ANY ($3))
        AND ($4::timestamptz IS NULL OR (created_at, run_id) < ($4, $5::text))
    ORDER BY created_at DESC, run_id DESC
    LIMIT $6
) r
CROSS JOIN LATERAL (
    SELECT
        coalesce(sum(events), 0)::bigint AS "events!",
        coalesce(sum(rated_events), 0)::bigint AS "rated_events!",
        coalesce(sum(unpriced_events), 0)::bigint AS "unpriced_events!",
        coalesce(sum(unattributable_events), 0)::bigint AS "unattributable_events!",
        coalesce(sum(ambiguous_base_events), 0)::bigint AS "ambiguous_base_events!",
        coalesce(sum(malformed_events), 0)::bigint AS "malformed_events!",
        coalesce(sum(clamped_events), 0)::bigint AS "clamped_events!",
        coalesce(sum(inserted_rollups), 0)::bigint AS "inserted_rollups!",
        coalesce(sum(updated_rollups), 0)::bigint AS "updated_rollups!",
        coalesce(sum(unchanged_rollups), 0)::bigint AS "unchanged_rollups!",
        coalesce(sum(reconciled_deletions), 0)::bigint AS "reconciled_deletions!",
        coalesce(sum(shrunk_rollups), 0)::bigint AS "shrunk_rollups!",
        coalesce(sum(rate_drift_rollups), 0)::bigint AS "rate_drift_rollups!",
        coalesce(sum(unexplained_rollups), 0)::bigint AS "unexplained_rollups!",
        trim_scale(coalesce(sum(previous_cost), 0))::text AS "previous_cost!",
        trim_scale(coalesce(sum(total_cost), 0))::text AS "total_cost!",
        trim_scale(coalesce(sum(lost_cost), 0))::text AS "lost_cost!",
        coalesce(sum(hours), 0)::bigint AS "hours!",
        coalesce(sum(hours) FILTER (WHERE committed_at >= r.began_at), 0)::bigint AS "hours_since!",
        coalesce(sum(events) FILTER (WHERE committed_at >= r.began_at), 0)::bigint AS "events_since!",
        max(committed_at) AS updated_at
    FROM (
        SELECT *, extract(epoch FROM chunk_end - chunk_start) / 3600 AS hours
        FROM rating_run_chunk WHERE run_id = r.run_id
    ) chunks
) c
ORDER BY r.created_at DESC, r.run_id DESC
