-- Stores the events of one batch that are not stored yet, the first of each id. Returns nothing
-- when that were all of them, as of almost every batch, and else the ids of those that were.
-- Rows are taken in one order everywhere ("C", whatever the database's collation), so that
-- batches which overlap wait for each other and never in a circle.
WITH inserted AS (
    INSERT INTO billing_event (
        request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model, adapter,
        prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted, event_ts
    )
    SELECT
        e.request_id, e.auth_id, e.user_id, e.group_id, e.resource_id, e.resource_type, e.model,
        e.base_model, e.adapter, e.prompt_tokens, e.cached_tokens, e.completion_tokens,
        e.finish_reason, e.gpu_type, e.aborted, e.event_ts
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::int[], $11::int[], $12::int[], $13::text[], $14::text[], $15::bool[],
        $16::timestamptz[]
    ) WITH ORDINALITY AS e (
        request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model, adapter,
        prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted, event_ts,
        position
    )
    ORDER BY e.request_id COLLATE "C", e.position
    ON CONFLICT (request_id) DO NOTHING
    RETURNING request_id
)
SELECT CASE
    WHEN (SELECT count(*) FROM inserted) < cardinality($1::text[])
    THEN ARRAY(SELECT request_id::text FROM inserted)
END AS "inserted"
