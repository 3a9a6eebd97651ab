-- A backfill that begins ends the runs without a process whose remaining hours it overlaps: one
-- that was resumed over it would undo it. (A routine run keeps rates; it ends none.) Chunks that
-- went on side by side leave committed hours below the end of what remains.
UPDATE rating_run r
SET state = CASE state WHEN 'cancelling' THEN 'cancelled' ELSE 'failed' END,
    error_reason = CASE state WHEN 'cancelling' THEN NULL ELSE 'LEASE_LOST' END,
    error_message = CASE state WHEN 'cancelling' THEN NULL
        ELSE 'its process was gone when a later backfill began with its hours; run what that leaves out again' END,
    finished_at = clock_timestamp()
WHERE finished_at IS NULL
    AND tstzmultirange(tstzrange(window_start, coalesce(remaining_end, window_end))) - coalesce(
        (SELECT range_agg(tstzrange(chunk_start, chunk_end)) FROM rating_run_chunk c WHERE c.run_id = r.run_id),
        '{}') && tstzrange($1, $2)
    AND NOT EXISTS (SELECT FROM rating_lease l WHERE l.run_id = r.run_id)
RETURNING run_id
