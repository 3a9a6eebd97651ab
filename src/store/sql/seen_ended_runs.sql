-- What runs did that ended a short while ago ($1 seconds), and what open ones have committed so far,
-- added up by trigger and state. Runs that began more than $2 seconds ago are not looked through for it.
-- The bound is statement_timestamp(), by which an index can be read; clock_timestamp() is none.
SELECT r.trigger, r.state,
    count(*) AS "runs!",
    coalesce(sum(r.refused_rollups), 0)::bigint AS "refused_rollups!",
    coalesce(sum(c.unpriced_events), 0)::bigint AS "unpriced_events!",
    coalesce(sum(c.unattributable_events), 0)::bigint AS "unattributable_events!",
    coalesce(sum(c.ambiguous_base_events), 0)::bigint AS "ambiguous_base_events!",
    coalesce(sum(c.malformed_events), 0)::bigint AS "malformed_events!",
    coalesce(sum(c.clamped_events), 0)::bigint AS "clamped_events!",
    coalesce(sum(c.reconciled_deletions), 0)::bigint AS "reconciled_deletions!",
    coalesce(sum(c.shrunk_rollups), 0)::bigint AS "shrunk_rollups!",
    coalesce(sum(c.rate_drift_rollups), 0)::bigint AS "rate_drift_rollups!",
    coalesce(sum(c.unexplained_rollups), 0)::bigint AS "unexplained_rollups!"
FROM rating_run r
CROSS JOIN LATERAL (
    SELECT
        sum(unpriced_events) AS unpriced_events,
        sum(unattributable_events) AS unattributable_events,
        sum(ambiguous_base_events) AS ambiguous_base_events,
        sum(malformed_events) AS malformed_events,
        sum(clamped_events) AS clamped_events,
        sum(reconciled_deletions) AS reconciled_deletions,
        sum(shrunk_rollups) AS shrunk_rollups,
        sum(rate_drift_rollups) AS rate_drift_rollups,
        sum(unexplained_rollups) AS unexplained_rollups
    FROM rating_run_chunk WHERE run_id = r.run_id
) c
WHERE r.created_at >= statement_timestamp() - make_interval(secs => $2)
    AND (r.finished_at >= statement_timestamp() - make_interval(secs => $1) OR r.finished_at IS NULL)
GROUP BY r.trigger, r.state
