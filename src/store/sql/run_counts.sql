-- The result of a run: the sum of its committed chunks.
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
    coalesce(sum(extract(epoch FROM chunk_end - chunk_start) / 3600), 0)::bigint AS "hours!"
FROM rating_run_chunk
WHERE run_id = $1
