-- Events that the latest run of each hour could not bill (R3), by kind: of the last $1 hours, and of the
-- last $3 of these; newest first, at most $2 rows of the table, so that a flood of them is as quick to
-- see as one. The bound is statement_timestamp(), by which the key can be read; clock_timestamp() is none.
SELECT kind, sum(events)::bigint AS "events!",
    coalesce(sum(events) FILTER (WHERE window_start >= statement_timestamp() - make_interval(hours => $3)), 0)::bigint
        AS "recent!"
FROM (
    SELECT kind, events, window_start FROM rating_anomaly
    WHERE window_start >= statement_timestamp() - make_interval(hours => $1)
    ORDER BY window_start DESC
    LIMIT $2
) newest
GROUP BY kind
