-- Takes expired leases away (R8): the process that held one is gone or too late. Its run waits
-- for another process, in the same breath: none is RUNNING without one. SKIP LOCKED leaves alone
-- a lease whose holder is in the middle of a chunk: its row is locked until that commits.
WITH expired AS (
    SELECT run_id FROM rating_lease
    WHERE expires_at <= clock_timestamp() AND ($1::tstzrange IS NULL OR during && $1)
    FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM rating_lease l USING expired e WHERE l.run_id = e.run_id
    RETURNING l.run_id, upper(l.during) AS remaining_end
)
UPDATE rating_run r
SET state = CASE r.state WHEN 'cancelling' THEN r.state ELSE 'pending' END,
    -- A chunk of the last process is progress, in whatever order chunks were committed.
    fruitless_takeovers = CASE WHEN EXISTS (SELECT FROM rating_run_chunk c
            WHERE c.run_id = r.run_id AND c.committed_at >= coalesce(r.resumed_at, r.started_at))
        THEN 0 ELSE r.fruitless_takeovers + 1 END,
    remaining_end = g.remaining_end
FROM gone g
WHERE r.run_id = g.run_id AND r.finished_at IS NULL
