-- Totals of rated usage by what is asked for, after a key, or the dearest of them. One statement,
-- so that a page is of one snapshot; it reads all rows of the filter.
--
--  $1, $2  hours, [since, until)        $6-$8    sum by auth_id, resource_id, model_id
--  $3-$5   ids; an empty list           $9       sum by this period, in UTC (R14); empty: by none
--          filters nothing              $10-$14  the key; $15 the dearest first; $16 how many
--
-- Currencies are never added up: each has totals of its own. What an adopted row has no value for
-- counts nothing, and no currency is one of its own. Ids are ordered by bytes ("C"), the same on
-- every server; one that is not summed by is empty.
WITH held AS (
    SELECT
        CASE WHEN $6::boolean THEN auth_id ELSE '' END COLLATE "C" AS auth_id,
        CASE WHEN $7::boolean THEN resource_id ELSE '' END COLLATE "C" AS resource_id,
        CASE WHEN $8::boolean THEN model_id ELSE '' END COLLATE "C" AS model_id,
        CASE WHEN $9::text = '' THEN timestamptz 'epoch' ELSE date_trunc($9, window_start, 'UTC') END AS period,
        coalesce(currency_code::text, '') COLLATE "C" AS currency_code,
        prompt_tokens, cached_tokens, completion_tokens, event_count, cost
    FROM rated_usage
    WHERE ($1::timestamptz IS NULL OR window_start >= $1)
        AND ($2::timestamptz IS NULL OR window_start < $2)
        AND (cardinality($3::text[]) = 0 OR auth_id = ANY ($3))
        AND (cardinality($4::text[]) = 0 OR resource_id = ANY ($4))
        AND (cardinality($5::text[]) = 0 OR model_id = ANY ($5))
)
SELECT auth_id AS "auth_id!", resource_id AS "resource_id!", model_id AS "model_id!", period AS "period!",
    currency_code AS "currency_code!",
    coalesce(sum(prompt_tokens), 0)::bigint AS "prompt_tokens!",
    coalesce(sum(cached_tokens), 0)::bigint AS "cached_tokens!",
    coalesce(sum(completion_tokens), 0)::bigint AS "completion_tokens!",
    coalesce(sum(event_count), 0)::bigint AS "event_count!",
    trim_scale(coalesce(sum(cost), 0))::text AS "cost!"
FROM held
WHERE $10::text IS NULL
    OR (auth_id, resource_id, model_id, period, currency_code)
        > ($10, $11::text, $12::text, $13::timestamptz, $14::text)
GROUP BY auth_id, resource_id, model_id, period, currency_code
ORDER BY CASE WHEN $15::boolean THEN coalesce(sum(cost), 0) END DESC,
    auth_id, resource_id, model_id, period, currency_code
LIMIT $16
