-- When a run with each trigger last succeeded, of those that began in the last $1 seconds. A routine run
-- over hours of long ago fills a gap, and says nothing of the schedule: its window must reach up to
-- those that had just closed ($2 seconds after their end, as runs take it).
SELECT trigger, max(finished_at) AS "at!" FROM rating_run
WHERE state = 'succeeded' AND finished_at IS NOT NULL
    AND created_at >= statement_timestamp() - make_interval(secs => $1)
    AND (trigger <> 'routine' OR window_end > created_at - make_interval(secs => $2) - interval '2 hours')
GROUP BY trigger
