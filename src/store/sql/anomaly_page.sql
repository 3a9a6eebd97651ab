-- A page of anomalies, gathered by kind and by what is asked for, after a key. rating_anomaly holds
-- what the latest run of each hour could not bill (R3), so these are sums of states, not of runs.
--
--  $1, $2  hours, [since, until)        $7-$9    gather by auth_id, resource_id, model_id
--  $3-$5   ids, $6 kinds; an empty      $10      gather by this period, in UTC (R14); empty: by none
--          list filters nothing         $11-$15  the key; $16 how many
--
-- A limit that is not given is infinite, so that the hours are a range of the primary key in a plan
-- for all values, too. Ids are ordered by bytes ("C"), the same on every server; one that is not
-- gathered by is empty. Bases and samples are gathered in two steps, in memory that follows the
-- groups and not the rows.
WITH held AS (
    SELECT
        kind,
        -- The order of the contract's enum.
        CASE kind WHEN 'unpriced' THEN 1 WHEN 'unattributable' THEN 2 WHEN 'ambiguous_base' THEN 3 ELSE 4 END
            AS rank,
        CASE WHEN $7::boolean THEN auth_id ELSE '' END COLLATE "C" AS auth_id,
        CASE WHEN $8::boolean THEN resource_id ELSE '' END COLLATE "C" AS resource_id,
        CASE WHEN $9::boolean THEN model_id ELSE '' END COLLATE "C" AS model_id,
        CASE WHEN $10::text = '' THEN timestamptz 'epoch' ELSE date_trunc($10, window_start, 'UTC') END AS period,
        window_start, base_models, events, prompt_tokens, cached_tokens, completion_tokens,
        -- The greatest is of the latest hour.
        CASE WHEN sample_request_id IS NOT NULL
            THEN ARRAY[to_char(window_start AT TIME ZONE 'UTC', 'YYYYMMDDHH24'), sample_request_id]
        END AS sample
    FROM rating_anomaly
    WHERE window_start >= coalesce($1::timestamptz, '-infinity')
        AND window_start < coalesce($2::timestamptz, 'infinity')
        AND (cardinality($3::text[]) = 0 OR auth_id = ANY ($3))
        AND (cardinality($4::text[]) = 0 OR resource_id = ANY ($4))
        AND (cardinality($5::text[]) = 0 OR model_id = ANY ($5))
        AND (cardinality($6::text[]) = 0 OR kind = ANY ($6))
),
by_bases AS (
    SELECT rank, kind, auth_id, resource_id, model_id, period, base_models,
        min(window_start) AS first_window_start,
        max(window_start) AS last_window_start,
        sum(events) AS events,
        sum(prompt_tokens) AS prompt_tokens,
        sum(cached_tokens) AS cached_tokens,
        sum(completion_tokens) AS completion_tokens,
        max(sample COLLATE "C") AS sample
    FROM held
    WHERE $11::integer IS NULL
        OR (rank, auth_id, resource_id, model_id, period) > ($11, $12::text, $13::text, $14::text, $15::timestamptz)
    GROUP BY rank, kind, auth_id, resource_id, model_id, period, base_models
)
SELECT rank AS "rank!", kind AS "kind!", auth_id AS "auth_id!", resource_id AS "resource_id!",
    model_id AS "model_id!", period AS "period!", first_window_start AS "first_window_start!",
    last_window_start AS "last_window_start!", events AS "events!", prompt_tokens AS "prompt_tokens!",
    cached_tokens AS "cached_tokens!", completion_tokens AS "completion_tokens!",
    coalesce(sample[2], '') AS "sample_request_id!",
    ARRAY(
        SELECT DISTINCT base_model COLLATE "C"
        FROM unnest(base_model_lists) AS l (base_models)
        CROSS JOIN LATERAL unnest(l.base_models::text[]) AS b (base_model)
        ORDER BY 1 LIMIT 10
    ) AS "base_models!"
FROM (
    SELECT rank, kind, auth_id, resource_id, model_id, period,
        min(first_window_start) AS first_window_start,
        max(last_window_start) AS last_window_start,
        sum(events)::bigint AS events,
        sum(prompt_tokens)::bigint AS prompt_tokens,
        sum(cached_tokens)::bigint AS cached_tokens,
        sum(completion_tokens)::bigint AS completion_tokens,
        max(sample COLLATE "C") AS sample,
        -- As text: lists of different lengths make no array.
        array_agg(base_models::text) AS base_model_lists
    FROM by_bases
    GROUP BY rank, kind, auth_id, resource_id, model_id, period
    ORDER BY rank, auth_id, resource_id, model_id, period
    LIMIT $16
) page
ORDER BY rank, auth_id, resource_id, model_id, period
