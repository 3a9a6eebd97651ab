-- The feed, and its batches from a position on. One row, without a batch, where there is none.
SELECT feed_id, whole_story, retired_through,
    position AS "position?", batch_id AS "batch_id?", changes AS "changes?", trigger AS "trigger?",
    changed_at AS "changed_at?"
FROM change_feed
LEFT JOIN (SELECT * FROM change_batch WHERE position >= $1 ORDER BY position LIMIT $2) b ON true
ORDER BY position
