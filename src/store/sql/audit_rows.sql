-- A batch of the audit: the next rows of rated_usage in key order, each held against what it says
-- itself (R13), and what does not agree counted, summed in money (R1), and listed while there is
-- room. Nothing here can fail on what a row holds but times at the very end of all time: money is
-- only reckoned with where it is money, and as numeric, which no count overflows.
--
--  $1-$5   the key to begin after          $8  how many rows
--  $6      the currency of that key's hour $9  how many are listed in all
--  $7      the last time of window_start     $10 where hours that are held against events end, if they are
WITH batch AS MATERIALIZED (
    SELECT id, auth_id, resource_id, model_id, window_start, window_end, price_class,
        prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
        cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code::text,
        row_number() OVER (ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C",
            model_id COLLATE "C", price_class COLLATE "C") AS ordinal
    FROM rated_usage
    WHERE (window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C", price_class COLLATE "C")
            > ($1::text::timestamptz, $2::text, $3::text, $4::text, $5::text)
        AND window_start <= $7::text::timestamptz
    ORDER BY window_start, auth_id COLLATE "C", resource_id COLLATE "C", model_id COLLATE "C",
        price_class COLLATE "C"
    LIMIT $8
),
-- The CHECK of money that fits. NaN is greater than anything.
read AS MATERIALIZED (
    SELECT b.*,
        least(cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate) >= 0
            AND greatest(cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate) < 1e16
            AND greatest(min_scale(cost), min_scale(applied_prompt_rate), min_scale(applied_cached_rate),
                min_scale(applied_completion_rate)) <= 12 AS is_money,
        CASE WHEN cost >= 0 AND cost < 1e16 THEN cost END AS billed,
        -- What an adopted row may lack is what its cached tokens leave of its prompt.
        coalesce(billable_prompt_tokens, greatest(prompt_tokens::numeric - cached_tokens, 0)) AS billable,
        -- One currency in an hour: that of the first row that says one.
        coalesce(CASE WHEN window_start = $1::text::timestamptz THEN $6::text END,
            min(currency_code COLLATE "C") OVER (PARTITION BY window_start)) AS hour_currency
    FROM batch b
),
reckoned AS MATERIALIZED (
    SELECT r.*, CASE WHEN is_money THEN billable * applied_prompt_rate + cached_tokens * applied_cached_rate
        + completion_tokens * applied_completion_rate END AS expected
    FROM read r
),
-- Each row under the first that applies.
graded AS MATERIALIZED (
    SELECT r.*,
        CASE
            WHEN num_nulls(cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate,
                prompt_tokens, cached_tokens, completion_tokens) > 0 THEN 'incomplete'
            WHEN NOT is_money THEN 'no_money'
            WHEN cost <> expected THEN 'cost'
            WHEN least(prompt_tokens, cached_tokens, completion_tokens, billable, event_count) < 0
                OR billable > prompt_tokens OR billable < prompt_tokens::numeric - cached_tokens THEN 'tokens'
            WHEN NOT isfinite(window_start) OR mod(extract(epoch FROM window_start), 3600) <> 0
                OR window_end <> window_start + interval '1 hour' THEN 'hour'
            WHEN currency_code <> hour_currency THEN 'currency'
            -- Nobody can have rated it (R15), and no events are asked for it.
            WHEN $10::timestamptz IS NOT NULL AND window_start > statement_timestamp() - interval '1 hour'
            THEN 'events_open_hour'
        END AS finding
    FROM reckoned r
),
found AS MATERIALIZED (
    SELECT finding, coalesce(currency_code, '') AS currency_code, coalesce(billed, 0) AS billed,
        coalesce(greatest(billed - expected, 0), 0) AS over_billed,
        coalesce(greatest(expected - billed, 0), 0) AS under_billed
    FROM graded WHERE finding IS NOT NULL
    -- Told, and no disagreement: what an adopted row keeps, and what it never said.
    UNION ALL
    SELECT 'foreign_id', coalesce(currency_code, ''), coalesce(billed, 0), 0, 0 FROM graded
    WHERE isfinite(window_start) AND id <> md5(format('%s:%s|%s:%s|%s:%s|%s', length(auth_id), auth_id,
        length(resource_id), resource_id, length(model_id), model_id, extract(epoch FROM window_start)::bigint)
        || CASE WHEN price_class <> 'standard' THEN format('|%s:%s', length(price_class), price_class) ELSE '' END)
    UNION ALL
    SELECT 'unstated', coalesce(currency_code, ''), coalesce(billed, 0), 0, 0 FROM graded
    WHERE num_nulls(currency_code, event_count, billable_prompt_tokens, window_end) > 0
    UNION ALL
    SELECT 'not_compared', coalesce(currency_code, ''), coalesce(billed, 0), 0, 0 FROM graded
    WHERE window_start >= $10 AND window_start <= statement_timestamp() - interval '1 hour'
    -- Told where there is more than one.
    UNION ALL
    SELECT 'currencies', currency_code, coalesce(billed, 0), 0, 0 FROM graded WHERE currency_code IS NOT NULL
),
counted AS (
    INSERT INTO audit_total (finding, currency_code, rows, billed, over_billed, under_billed)
    SELECT finding, currency_code, count(*), sum(billed), sum(over_billed), sum(under_billed)
    FROM found GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (finding, currency_code) DO UPDATE SET rows = audit_total.rows + excluded.rows,
        billed = audit_total.billed + excluded.billed,
        over_billed = audit_total.over_billed + excluded.over_billed,
        under_billed = audit_total.under_billed + excluded.under_billed
),
listed AS (
    INSERT INTO audit_disagreement (finding, window_start, auth_id, resource_id, model_id, price_class,
        currency_code, billed, expected, detail)
    SELECT finding, window_start, auth_id, resource_id, model_id, price_class, currency_code, billed, expected,
        CASE finding
            WHEN 'incomplete' THEN 'has no ' || concat_ws(', ',
                CASE WHEN cost IS NULL THEN 'cost' END,
                CASE WHEN applied_prompt_rate IS NULL THEN 'applied_prompt_rate' END,
                CASE WHEN applied_cached_rate IS NULL THEN 'applied_cached_rate' END,
                CASE WHEN applied_completion_rate IS NULL THEN 'applied_completion_rate' END,
                CASE WHEN prompt_tokens IS NULL THEN 'prompt_tokens' END,
                CASE WHEN cached_tokens IS NULL THEN 'cached_tokens' END,
                CASE WHEN completion_tokens IS NULL THEN 'completion_tokens' END)
            WHEN 'no_money' THEN 'its cost or a rate is negative, too large, too fine or no number'
            WHEN 'cost' THEN 'its tokens at its rates cost something else'
            WHEN 'tokens' THEN format('%s billable of %s prompt tokens, of which %s are cached; %s completion tokens',
                billable, prompt_tokens, cached_tokens, completion_tokens)
            WHEN 'hour' THEN format('it is of %s to %s, which is no UTC hour', window_start, coalesce(window_end::text, '?'))
            WHEN 'currency' THEN format('it is in %s and its hour is in %s', currency_code, hour_currency)
            ELSE 'its hour is not over'
        END
    FROM graded WHERE finding IS NOT NULL ORDER BY ordinal
    LIMIT greatest($9 - (SELECT count(*) FROM audit_disagreement), 0)
)
SELECT count(*) AS "rows!", (
    SELECT jsonb_build_object('window_start', window_start, 'auth_id', auth_id, 'resource_id', resource_id,
        'model_id', model_id, 'price_class', price_class, 'currency', hour_currency)
    FROM read ORDER BY ordinal DESC LIMIT 1
) AS last
FROM read
