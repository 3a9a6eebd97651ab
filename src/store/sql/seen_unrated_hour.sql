-- How many seconds ago the oldest hour closed that has events and that nobody has rated: no run's
-- committed chunk covers it (R15: one that does was begun after the hour had closed), and it has no
-- rollup, which is how an hour of an adopted table was rated elsewhere. Hours are closed as runs take
-- it, $1 seconds after their end; $2 hours are looked back. One index probe an hour that is not covered.
WITH closed AS (
    SELECT date_bin('1 hour', statement_timestamp() - make_interval(secs => $1), 'epoch') AS until
),
covered AS (
    SELECT range_agg(tstzrange(c.chunk_start, c.chunk_end)) AS hours
    FROM closed, rating_run r JOIN rating_run_chunk c USING (run_id)
    WHERE r.created_at >= until - make_interval(hours => $2)
)
SELECT extract(epoch FROM statement_timestamp() - (h.start + interval '1 hour'))::bigint AS "ago!"
FROM closed, covered,
    generate_series(until - make_interval(hours => $2), until - interval '1 hour', interval '1 hour') AS h (start)
WHERE NOT coalesce(hours @> h.start, false)
    AND EXISTS (SELECT FROM billing_event
        WHERE coalesce(event_ts, created_at) >= h.start
            AND coalesce(event_ts, created_at) < h.start + interval '1 hour')
    -- As a range, so that it is looked up an hour at a time, whatever the planner takes the table for.
    AND NOT EXISTS (SELECT FROM rated_usage
        WHERE window_start >= h.start AND window_start < h.start + interval '1 hour')
ORDER BY h.start
LIMIT 1
