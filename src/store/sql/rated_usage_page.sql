-- A page of rated usage by window_start, then identity, after a key. By bytes ("C"), so that the
-- order is the same on every server. An empty list filters nothing.
SELECT id, auth_id, resource_id, model_id, window_start, window_end,
    prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
    currency_code, trim_scale(cost)::text AS cost,
    trim_scale(applied_prompt_rate)::text AS applied_prompt_rate,
    trim_scale(applied_cached_rate)::text AS applied_cached_rate,
    trim_scale(applied_completion_rate)::text AS applied_completion_rate,
    pricebook_digest, run_id, rated_at, price_class
FROM rated_usage
WHERE ($1::timestamptz IS NULL OR window_start >= $1)
    AND ($2::timestamptz IS NULL OR window_start < $2)
    AND (cardinality($3::text[]) = 0 OR auth_id = ANY ($3))
    AND (cardinality($4::text[]) = 0 OR resource_id = ANY ($4))
    AND (cardinality($5::text[]) = 0 OR model_id = ANY ($5))
    AND ($6::timestamptz IS NULL OR window_start >= $6)
    AND ($6::timestamptz IS NULL
        OR (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
            price_class COLLATE "C") > ($6, $7, $8, $9, $10))
ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
    price_class COLLATE "C"
LIMIT $11
