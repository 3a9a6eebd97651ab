-- A page of rated usage by window_start, then identity, after a key.
--
--  $1, $2  hours, [since, until)        $6-$10  the key: hour, auth_id, resource_id, model_id,
--  $3-$5   auth_ids, resource_ids,              price_class; NULL and empty texts before the first
--          model_ids; an empty list     $11     how many
--          filters nothing
--
-- Of the two halves the first is for a few identities and the second for everything else; the
-- planner drops the other one. A limit of time that is not given is the first or last that a message
-- can hold (an adopted time may be outside, and is nothing), so that hours and key are a range of an
-- index in a plan for all values, too. Texts are ordered by bytes ("C"), the same
-- on every server.
SELECT id AS "id!", auth_id AS "auth_id!", resource_id AS "resource_id!", model_id AS "model_id!",
    window_start AS "window_start!",
    CASE WHEN window_end >= '0001-01-01Z' AND window_end < '10000-01-01Z' THEN window_end END AS window_end,
    prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
    currency_code, trim_scale(cost)::text AS cost,
    trim_scale(applied_prompt_rate)::text AS applied_prompt_rate,
    trim_scale(applied_cached_rate)::text AS applied_cached_rate,
    trim_scale(applied_completion_rate)::text AS applied_completion_rate,
    pricebook_digest, run_id,
    CASE WHEN rated_at >= '0001-01-01Z' AND rated_at < '10000-01-01Z' THEN rated_at END AS rated_at,
    price_class AS "price_class!"
FROM (
    -- Each identity's next rows, up to the end of an hour, from its own index: however they lie, and
    -- whatever the planner believes of them, since it would at times walk all hours for an identity
    -- that has its rows in the last one. Range and order are of (auth_id, window_start), which no
    -- other index has; the key is a NOT, which none can use; and of a limit that is a subquery the
    -- planner does not think that it may as well sort everything.
    (
        SELECT u.*
        FROM (
            SELECT DISTINCT unnest($3::text[]) AS auth_id,
                greatest($1::timestamptz, $6::timestamptz, '0001-01-01Z') AS since,
                least($2::timestamptz, '10000-01-01Z') AS until,
                coalesce($6, '-infinity') AS after
        ) AS wanted
        CROSS JOIN LATERAL (
            SELECT *
            FROM rated_usage
            WHERE (auth_id, window_start) >= (wanted.auth_id, wanted.since)
                AND (auth_id, window_start) < (wanted.auth_id, wanted.until)
                AND (cardinality($4::text[]) = 0 OR resource_id = ANY ($4))
                AND (cardinality($5::text[]) = 0 OR model_id = ANY ($5))
                AND NOT (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
                    price_class COLLATE "C") <= (wanted.after, $7::text, $8::text, $9::text, $10::text)
            ORDER BY auth_id, window_start
            FETCH FIRST (SELECT $11::bigint) ROWS WITH TIES
        ) AS u
        WHERE cardinality($3) BETWEEN 1 AND 16
    )
    UNION ALL
    (
        SELECT *
        FROM rated_usage
        WHERE cardinality($3) NOT BETWEEN 1 AND 16
            AND (cardinality($3) = 0 OR auth_id = ANY ($3))
            AND window_start >= greatest($1, $6, '0001-01-01Z')
            AND window_start < least($2, '10000-01-01Z')
            AND (cardinality($4) = 0 OR resource_id = ANY ($4))
            AND (cardinality($5) = 0 OR model_id = ANY ($5))
            AND (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
                price_class COLLATE "C") > (coalesce($6, '-infinity'), $7, $8, $9, $10)
        ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
            price_class COLLATE "C"
        LIMIT $11
    )
) AS either_half
ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
    price_class COLLATE "C"
LIMIT $11
