-- The changes of parts of batches, in the order of the parts: after one ordinal, up to another. It
-- reads so many rows whatever the filter matches: behind OFFSET 0 each part is looked up by key. An
-- adopted time that no message can hold is nothing.
SELECT part AS "part!", c.ordinal, c.operation, c.run_id,
    coalesce(c.id, '') AS "id!", c.auth_id, c.resource_id, c.model_id, c.window_start, c.price_class,
    CASE WHEN c.before_window_end >= '0001-01-01Z' AND c.before_window_end < '10000-01-01Z' THEN c.before_window_end END AS before_window_end,
    c.before_prompt_tokens, c.before_cached_tokens, c.before_completion_tokens,
    c.before_billable_prompt_tokens, c.before_event_count, c.before_currency_code,
    trim_scale(c.before_cost)::text AS before_cost,
    trim_scale(c.before_applied_prompt_rate)::text AS before_applied_prompt_rate,
    trim_scale(c.before_applied_cached_rate)::text AS before_applied_cached_rate,
    trim_scale(c.before_applied_completion_rate)::text AS before_applied_completion_rate,
    c.before_pricebook_digest, c.before_run_id,
    CASE WHEN c.before_rated_at >= '0001-01-01Z' AND c.before_rated_at < '10000-01-01Z' THEN c.before_rated_at END AS before_rated_at,
    c.window_start + interval '1 hour' AS "after_window_end",
    c.after_prompt_tokens, c.after_cached_tokens, c.after_completion_tokens,
    c.after_billable_prompt_tokens, c.after_event_count, c.after_currency_code,
    trim_scale(c.after_cost)::text AS after_cost,
    trim_scale(c.after_applied_prompt_rate)::text AS after_applied_prompt_rate,
    trim_scale(c.after_applied_cached_rate)::text AS after_applied_cached_rate,
    trim_scale(c.after_applied_completion_rate)::text AS after_applied_completion_rate,
    c.after_pricebook_digest, c.after_rated_at
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS p (batch_id, after, until, part)
CROSS JOIN LATERAL (
    SELECT * FROM rated_usage_change
    WHERE batch_id = p.batch_id AND ordinal > p.after AND ordinal <= p.until
        AND ($4::timestamptz IS NULL OR window_start >= $4)
        AND ($5::timestamptz IS NULL OR window_start < $5)
        AND (cardinality($6::text[]) = 0 OR auth_id = ANY ($6))
        AND (cardinality($7::text[]) = 0 OR resource_id = ANY ($7))
        AND (cardinality($8::text[]) = 0 OR model_id = ANY ($8))
    OFFSET 0
) c
ORDER BY part, c.ordinal
