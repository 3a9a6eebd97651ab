-- Runs that have not ended, by trigger and state, and for how long the one of each that stands
-- still longest has committed nothing. That it was taken over is no progress of it.
SELECT r.trigger, r.state,
    count(*) AS "runs!",
    greatest(0, extract(epoch FROM max(clock_timestamp() - coalesce(c.committed_at, r.created_at)))::bigint)
        AS "still_for!"
FROM rating_run r
CROSS JOIN LATERAL (SELECT max(committed_at) AS committed_at FROM rating_run_chunk WHERE run_id = r.run_id) c
WHERE r.finished_at IS NULL
GROUP BY r.trigger, r.state
