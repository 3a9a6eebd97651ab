-- Events that the latest run of each hour could not bill (R3), by kind: of the last $1 hours, newest
-- first, at most $2 rows of the table, so that a flood of them is as quick to see as one.
SELECT kind, sum(events)::bigint AS "events!"
FROM (
    SELECT kind, events FROM rating_anomaly
    WHERE window_start >= clock_timestamp() - make_interval(hours => $1)
    ORDER BY window_start DESC
    LIMIT $2
) newest
GROUP BY kind
