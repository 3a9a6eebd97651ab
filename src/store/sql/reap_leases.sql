-- Takes expired leases away, and fails their runs in the same breath (R8): the process that held
-- one is gone or too late, and a run never stays RUNNING for ever. SKIP LOCKED leaves alone a
-- lease whose holder is in the middle of a chunk: its row is locked until that commits.
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
SET state = 'failed', error_reason = 'LEASE_LOST', remaining_end = g.remaining_end,
    error_message = 'its lease ended without a sign of life; run the remaining hours again',
    finished_at = clock_timestamp()
FROM gone g
WHERE r.run_id = g.run_id AND r.finished_at IS NULL
RETURNING r.run_id
