-- Compares events with the stored ones of the same ids. Other writers may have stored an
-- empty string where we store NULL, and NULL for an event that was not aborted.
SELECT
    e.position AS "position!",
    (ROW (
        NULLIF(b.auth_id, ''), NULLIF(b.user_id, ''), NULLIF(b.group_id, ''),
        NULLIF(b.resource_id, ''), NULLIF(b.resource_type, ''), NULLIF(b.model, ''),
        NULLIF(b.base_model, ''), NULLIF(b.adapter, ''), b.prompt_tokens, b.cached_tokens,
        b.completion_tokens, NULLIF(b.finish_reason, ''), NULLIF(b.gpu_type, ''),
        COALESCE(b.aborted, false), b.event_ts
    ) IS NOT DISTINCT FROM ROW (
        e.auth_id, e.user_id, e.group_id, e.resource_id, e.resource_type, e.model, e.base_model,
        e.adapter, e.prompt_tokens, e.cached_tokens, e.completion_tokens, e.finish_reason,
        e.gpu_type, e.aborted, e.event_ts
    )) AS "same!"
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::int[], $11::int[], $12::int[], $13::text[], $14::text[], $15::bool[],
    $16::timestamptz[]
) WITH ORDINALITY AS e (
    request_id, auth_id, user_id, group_id, resource_id, resource_type, model, base_model, adapter,
    prompt_tokens, cached_tokens, completion_tokens, finish_reason, gpu_type, aborted, event_ts,
    position
)
JOIN billing_event b ON b.request_id = e.request_id
