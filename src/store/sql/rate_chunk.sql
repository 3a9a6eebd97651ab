-- The rating statement (S2): rates the hours of one chunk and makes rated_usage in it exactly
-- what the events say, in one snapshot (R7). It runs after the lease row is locked, in the same
-- transaction, and returns one row of counts that the caller checks before it commits.
--
-- A plan is the same statement, told to write nothing ($23): what it says is what a run would do.
--
-- Two halves. The first turns events into groups, hour by hour, and is all that reads events.
-- The second prices groups, regroups them to rollups, and writes differences only (R6).
--
--  $1, $2  the chunk, [from, until)     $6  keep applied rates (R10)
--  $3      run                          $7  leave rollups that their rates don't explain (R10)
--  $4      batch of change records      $8  currency
--  $5      fence                        $9  pricebook digest
--  $10-$15 direct rates by model, $16-$21 derived rates by base model: model, from, until,
--          prompt, cached, completion; an empty rate: named by the pricebook, and unpriced
--  $22     the chunk's hours           $23 write; else this is a plan
--  $24     hash each hour's changes    $25 break the changes down, and list the traffic
--  $26     hold what is held against what the events say: an audit
WITH
-- Small hash tables, each hour by the index. Nothing here can overflow: sums of int4 are int8,
-- and the cached tokens that a prompt covers stand in for prompt - cached.
scan AS MATERIALIZED (
    SELECT h.window_start, g.*
    FROM unnest($22::timestamptz[]) AS h (window_start)
    CROSS JOIN LATERAL (
        SELECT auth_id, resource_id, model, base_model,
            count(*) AS events,
            -- By the sign bit of any count. A missing count makes it NULL.
            count(*) FILTER (WHERE ((prompt_tokens | cached_tokens | completion_tokens) < 0)
                IS NOT FALSE) AS malformed_events,
            sum(prompt_tokens) AS prompt_tokens,
            sum(cached_tokens) AS cached_tokens,
            sum(completion_tokens) AS completion_tokens,
            sum(least(cached_tokens, prompt_tokens)) AS covered_tokens,
            count(*) FILTER (WHERE cached_tokens > prompt_tokens) AS clamped_events
        FROM billing_event
        WHERE COALESCE(event_ts, created_at) >= h.window_start
            AND COALESCE(event_ts, created_at) < h.window_start + interval '1 hour'
        GROUP BY auth_id, resource_id, model, base_model
    ) g
),
suspect AS MATERIALIZED (
    SELECT DISTINCT window_start FROM scan WHERE malformed_events > 0
),
-- Malformed events (a negative or missing count, R3) are rare, and one more grouping key costs
-- every event: an hour that has some is scanned again, with them in groups of their own.
groups AS (
    SELECT window_start, auth_id, resource_id, model, base_model, false AS malformed,
        events, prompt_tokens, cached_tokens, completion_tokens, covered_tokens, clamped_events
    FROM scan
    WHERE window_start NOT IN (SELECT window_start FROM suspect)
    UNION ALL
    SELECT h.window_start, g.*
    FROM suspect h
    CROSS JOIN LATERAL (
        SELECT auth_id, resource_id, model, base_model,
            ((prompt_tokens | cached_tokens | completion_tokens) < 0) IS NOT FALSE AS malformed,
            count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens),
            sum(least(cached_tokens, prompt_tokens)),
            count(*) FILTER (WHERE cached_tokens > prompt_tokens)
        FROM billing_event
        WHERE COALESCE(event_ts, created_at) >= h.window_start
            AND COALESCE(event_ts, created_at) < h.window_start + interval '1 hour'
        GROUP BY 1, 2, 3, 4, 5
    ) g
),
direct AS MATERIALIZED (
    SELECT model, valid_from, valid_until, nullif(prompt, '')::numeric AS prompt_rate,
        nullif(cached, '')::numeric AS cached_rate, nullif(completion, '')::numeric AS completion_rate
    FROM unnest($10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[], $15::text[])
        AS r (model, valid_from, valid_until, prompt, cached, completion)
),
derived AS MATERIALIZED (
    SELECT base_model, valid_from, valid_until, nullif(prompt, '')::numeric AS prompt_rate,
        nullif(cached, '')::numeric AS cached_rate, nullif(completion, '')::numeric AS completion_rate
    FROM unnest($16::text[], $17::timestamptz[], $18::timestamptz[], $19::text[], $20::text[], $21::text[])
        AS r (base_model, valid_from, valid_until, prompt, cached, completion)
),
-- Each group under the first kind that applies (R3). What the pricebook names is priced by that
-- name or not at all; only an unnamed ft: model is priced through its events' base.
classified AS MATERIALIZED (
    SELECT g.*,
        CASE
            WHEN coalesce(g.auth_id, '') = '' OR coalesce(g.resource_id, '') = ''
                OR coalesce(g.model, '') = '' THEN 'unattributable'
            WHEN g.malformed THEN 'malformed'
            WHEN coalesce(d.prompt_rate, b.prompt_rate) IS NULL THEN 'unpriced'
            ELSE 'priced'
        END AS kind,
        b.base_model AS via_base_model,
        coalesce(d.prompt_rate, b.prompt_rate) AS prompt_rate,
        coalesce(d.cached_rate, b.cached_rate) AS cached_rate,
        coalesce(d.completion_rate, b.completion_rate) AS completion_rate
    FROM groups g
    LEFT JOIN direct d ON d.model = g.model
        AND d.valid_from <= g.window_start AND g.window_start < d.valid_until
    LEFT JOIN derived b ON b.base_model = g.base_model AND d.model IS NULL AND starts_with(g.model, 'ft:')
        AND b.valid_from <= g.window_start AND g.window_start < b.valid_until
),
-- Rollups of more than one group are few, and to find them costs far less than to sum all up.
regrouped AS MATERIALIZED (
    SELECT window_start, auth_id, resource_id, model
    FROM classified
    WHERE kind = 'priced'
    GROUP BY window_start, auth_id, resource_id, model
    HAVING count(*) > 1
),
produced AS MATERIALIZED (
    SELECT window_start, auth_id, resource_id, model AS model_id, 'standard'::text AS price_class,
        false AS ambiguous, events::bigint AS event_count, prompt_tokens::bigint AS prompt_tokens,
        cached_tokens::bigint AS cached_tokens, completion_tokens::bigint AS completion_tokens,
        (prompt_tokens - covered_tokens)::bigint AS billable_prompt_tokens,
        clamped_events::bigint AS clamped_events, prompt_rate, cached_rate, completion_rate
    FROM classified c
    WHERE kind = 'priced' AND NOT EXISTS (SELECT FROM regrouped r
        WHERE r.window_start = c.window_start AND r.auth_id = c.auth_id
            AND r.resource_id = c.resource_id AND r.model = c.model)
    UNION ALL
    SELECT window_start, auth_id, resource_id, model, 'standard',
        -- Two bases in one rollup: the whole of it is withheld, never billed at the cheaper one.
        min(via_base_model COLLATE "C") IS DISTINCT FROM max(via_base_model COLLATE "C"),
        sum(events)::bigint, sum(prompt_tokens)::bigint, sum(cached_tokens)::bigint,
        sum(completion_tokens)::bigint, sum(prompt_tokens - covered_tokens)::bigint,
        sum(clamped_events)::bigint, min(prompt_rate), min(cached_rate), min(completion_rate)
    FROM classified JOIN regrouped USING (window_start, auth_id, resource_id, model)
    WHERE kind = 'priced'
    GROUP BY window_start, auth_id, resource_id, model
),
-- OFFSET 0, here and below: what is used twice is worked out once, without being kept in between.
held AS (
    SELECT ctid AS held_ctid, u.*,
        -- R13, asked only where the answer matters. An adopted row may lack the billable prompt
        -- tokens; then they are what is left of the prompt.
        CASE WHEN $6 OR $7 THEN coalesce(
            cost = coalesce(billable_prompt_tokens, prompt_tokens::numeric - least(prompt_tokens, cached_tokens))
                * applied_prompt_rate + cached_tokens * applied_cached_rate
                + completion_tokens * applied_completion_rate
            -- What a row of ours could not hold can't be kept on one.
            AND least(cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate) >= 0
            AND greatest(min_scale(applied_prompt_rate), min_scale(applied_cached_rate),
                min_scale(applied_completion_rate)) <= 12, false) END AS explained
    FROM rated_usage u
    WHERE window_start >= $1 AND window_start < $2
    OFFSET 0
),
matched AS (
    SELECT p.*, h.held_ctid, h.id AS held_id, h.price_class AS held_price_class,
        h.explained, h.explained AND $6 AS frozen,
        h.auth_id AS held_auth_id, h.resource_id AS held_resource_id, h.model_id AS held_model_id,
        h.window_start AS held_window_start, h.window_end AS held_window_end,
        h.prompt_tokens AS held_prompt_tokens, h.cached_tokens AS held_cached_tokens,
        h.completion_tokens AS held_completion_tokens,
        h.billable_prompt_tokens AS held_billable_prompt_tokens, h.event_count AS held_event_count,
        h.cost AS held_cost, h.applied_prompt_rate AS held_prompt_rate,
        h.applied_cached_rate AS held_cached_rate, h.applied_completion_rate AS held_completion_rate,
        h.currency_code AS held_currency_code, h.pricebook_digest AS held_digest,
        h.run_id AS held_run_id, h.fence AS held_fence, h.rated_at AS held_rated_at,
        (p.event_count, p.prompt_tokens, p.cached_tokens, p.completion_tokens, p.billable_prompt_tokens)
            IS NOT DISTINCT FROM (h.event_count, h.prompt_tokens, h.cached_tokens, h.completion_tokens,
                h.billable_prompt_tokens) AS same_tokens
    FROM (SELECT * FROM produced WHERE NOT ambiguous) p
    FULL JOIN held h ON h.auth_id = p.auth_id AND h.resource_id = p.resource_id
        AND h.model_id = p.model_id AND h.window_start = p.window_start
        AND h.price_class = p.price_class
),
rated AS (
    SELECT m.*,
        CASE WHEN frozen THEN held_prompt_rate ELSE prompt_rate END AS new_prompt_rate,
        CASE WHEN frozen THEN held_cached_rate ELSE cached_rate END AS new_cached_rate,
        CASE WHEN frozen THEN held_completion_rate ELSE completion_rate END AS new_completion_rate,
        CASE
            -- The row is explained: at its rates, the same tokens cost the same.
            WHEN frozen AND same_tokens THEN held_cost
            WHEN frozen
            THEN billable_prompt_tokens * held_prompt_rate + cached_tokens * held_cached_rate
                + completion_tokens * held_completion_rate
            ELSE billable_prompt_tokens * prompt_rate + cached_tokens * cached_rate
                + completion_tokens * completion_rate
        END AS new_cost,
        (held_prompt_rate, held_cached_rate, held_completion_rate)
            IS NOT DISTINCT FROM (prompt_rate, cached_rate, completion_rate) AS same_rates
    FROM matched m
    OFFSET 0
),
diff AS MATERIALIZED (
    SELECT r.*,
        CASE
            WHEN held_ctid IS NULL THEN 'insert'
            WHEN $7 AND NOT explained THEN 'left'
            WHEN event_count IS NULL THEN 'delete'
            WHEN NOT same_tokens
                OR (new_prompt_rate, new_cached_rate, new_completion_rate, new_cost, $8::text)
                    IS DISTINCT FROM
                    (held_prompt_rate, held_cached_rate, held_completion_rate, held_cost,
                        held_currency_code::text) THEN 'update'
            ELSE 'unchanged'
        END AS operation,
        -- R6: the digest is that of the book the rate came from.
        CASE WHEN frozen THEN held_digest WHEN same_rates THEN coalesce(held_digest, $9) ELSE $9 END
            AS new_digest
    FROM rated r
),
-- Key order keeps the writes local in the indexes and change records in an order of their own.
changes AS MATERIALIZED (
    SELECT d.*, coalesce(auth_id, held_auth_id) AS key_auth_id,
        coalesce(resource_id, held_resource_id) AS key_resource_id,
        coalesce(model_id, held_model_id) AS key_model_id,
        coalesce(window_start, held_window_start) AS key_window_start,
        -- The same for ever, with no separator to collide on.
        coalesce(held_id, md5(format('%s:%s|%s:%s|%s:%s|%s', length(auth_id), auth_id,
            length(resource_id), resource_id, length(model_id), model_id,
            extract(epoch FROM window_start)::bigint))) AS key_id,
        row_number() OVER (ORDER BY coalesce(window_start, held_window_start),
            coalesce(auth_id, held_auth_id) COLLATE "C",
            coalesce(resource_id, held_resource_id) COLLATE "C",
            coalesce(model_id, held_model_id) COLLATE "C",
            coalesce(price_class, held_price_class) COLLATE "C") AS ordinal
    FROM diff d
    WHERE operation IN ('insert', 'update', 'delete')
),
-- A hash of each hour's changes, in key order: what a plan is held against. Of the hash of each,
-- so that no hour is too large; JSON tells NULL from empty and no two changes apart by chance.
-- Its twin in plain Rust is domain/plan.rs.
hashed AS (
    SELECT date_trunc('hour', key_window_start, 'UTC') AS hour, string_agg(sha256(convert_to(json_build_array(
            operation, (extract(epoch FROM key_window_start) * 1000000)::bigint,
            key_auth_id, key_resource_id, key_model_id, coalesce(held_price_class, 'standard'),
            CASE WHEN held_ctid IS NOT NULL THEN json_build_array(
                held_prompt_tokens, held_cached_tokens, held_completion_tokens,
                held_billable_prompt_tokens, held_event_count, trim_scale(held_prompt_rate)::text,
                trim_scale(held_cached_rate)::text, trim_scale(held_completion_rate)::text,
                trim_scale(held_cost)::text, held_currency_code::text) END,
            CASE WHEN operation <> 'delete' THEN json_build_array(
                prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
                trim_scale(new_prompt_rate)::text, trim_scale(new_cached_rate)::text,
                trim_scale(new_completion_rate)::text, trim_scale(new_cost)::text, $8::text) END
        )::text, 'UTF8')), '' ORDER BY ordinal) AS hashes
    FROM changes
    WHERE $24
    GROUP BY 1
),
inserted AS (
    INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end,
        prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
        cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate,
        currency_code, pricebook_digest, run_id, fence, rated_at)
    SELECT key_id, auth_id, resource_id, model_id, window_start, window_start + interval '1 hour',
        prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count,
        new_cost, new_prompt_rate, new_cached_rate, new_completion_rate,
        $8, new_digest, $3, $5, now()
    FROM changes WHERE $23 AND operation = 'insert'
    ORDER BY ordinal
    RETURNING 1
),
-- By ctid: a row that anyone else touched meanwhile is not met, and the counts show it.
updated AS (
    UPDATE rated_usage u SET
        window_end = c.window_start + interval '1 hour',
        prompt_tokens = c.prompt_tokens, cached_tokens = c.cached_tokens,
        completion_tokens = c.completion_tokens, billable_prompt_tokens = c.billable_prompt_tokens,
        event_count = c.event_count, cost = c.new_cost,
        applied_prompt_rate = c.new_prompt_rate, applied_cached_rate = c.new_cached_rate,
        applied_completion_rate = c.new_completion_rate, currency_code = $8,
        pricebook_digest = c.new_digest, run_id = $3, fence = $5, rated_at = now()
    FROM changes c
    WHERE $23 AND c.operation = 'update' AND u.ctid = c.held_ctid
        AND u.window_start >= $1 AND u.window_start < $2
    RETURNING 1
),
deleted AS (
    DELETE FROM rated_usage u USING changes c
    WHERE $23 AND c.operation = 'delete' AND u.ctid = c.held_ctid
        AND u.window_start >= $1 AND u.window_start < $2
    RETURNING 1
),
recorded AS (
    INSERT INTO rated_usage_change (batch_id, ordinal, operation, run_id,
        id, auth_id, resource_id, model_id, window_start, price_class, before_window_end,
        before_prompt_tokens, before_cached_tokens, before_completion_tokens,
        before_billable_prompt_tokens, before_event_count, before_cost,
        before_applied_prompt_rate, before_applied_cached_rate, before_applied_completion_rate,
        before_currency_code, before_pricebook_digest, before_run_id, before_rated_at,
        after_prompt_tokens, after_cached_tokens, after_completion_tokens,
        after_billable_prompt_tokens, after_event_count, after_cost,
        after_applied_prompt_rate, after_applied_cached_rate, after_applied_completion_rate,
        after_currency_code, after_pricebook_digest, after_rated_at)
    SELECT $4, ordinal, operation, $3,
        key_id, key_auth_id, key_resource_id, key_model_id, key_window_start,
        coalesce(held_price_class, 'standard'), held_window_end,
        held_prompt_tokens, held_cached_tokens, held_completion_tokens,
        held_billable_prompt_tokens, held_event_count, held_cost,
        held_prompt_rate, held_cached_rate, held_completion_rate,
        held_currency_code, held_digest, held_run_id, held_rated_at,
        prompt_tokens, cached_tokens, completion_tokens,
        billable_prompt_tokens, event_count, new_cost,
        CASE WHEN operation <> 'delete' THEN new_prompt_rate END,
        CASE WHEN operation <> 'delete' THEN new_cached_rate END,
        CASE WHEN operation <> 'delete' THEN new_completion_rate END,
        CASE WHEN operation <> 'delete' THEN $8 END,
        CASE WHEN operation <> 'delete' THEN new_digest END,
        CASE WHEN operation <> 'delete' THEN now() END
    FROM changes WHERE $23
    ORDER BY ordinal
    RETURNING 1
),
-- Anomalies: the groups that could not be billed, as the state of each hour.
withheld AS MATERIALIZED (
    SELECT c.window_start, coalesce(c.auth_id, '') AS auth_id, coalesce(c.resource_id, '') AS resource_id,
        coalesce(c.model, '') AS model_id, coalesce(c.base_model, '') AS base_model,
        c.malformed,
        CASE WHEN c.kind = 'priced' THEN 'ambiguous_base' ELSE c.kind END AS kind,
        c.events, c.prompt_tokens, c.cached_tokens, c.completion_tokens
    FROM classified c
    WHERE c.kind <> 'priced' OR c.via_base_model IS NOT NULL AND (c.window_start, c.auth_id, c.resource_id, c.model) IN (
        SELECT window_start, auth_id, resource_id, model_id FROM produced WHERE ambiguous)
),
anomaly AS (
    SELECT window_start, kind, auth_id, resource_id, model_id,
        coalesce((array_agg(DISTINCT base_model COLLATE "C" ORDER BY base_model COLLATE "C")
            FILTER (WHERE base_model <> ''))[1:10]::text[], '{}') AS base_models,
        sum(events)::bigint AS events,
        -- A malformed group may hold no count at all.
        coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
        coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
        coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens
    FROM withheld
    GROUP BY window_start, kind, auth_id, resource_id, model_id
),
anomaly_diff AS MATERIALIZED (
    SELECT window_start, kind, auth_id, resource_id, model_id,
        a.base_models, a.events, a.prompt_tokens, a.cached_tokens, a.completion_tokens
    FROM anomaly a
    FULL JOIN (SELECT * FROM rating_anomaly WHERE window_start >= $1 AND window_start < $2) o
        USING (window_start, kind, auth_id, resource_id, model_id)
    WHERE (a.base_models, a.events, a.prompt_tokens, a.cached_tokens, a.completion_tokens)
        IS DISTINCT FROM
        (o.base_models, o.events, o.prompt_tokens, o.cached_tokens, o.completion_tokens)
),
-- An example is looked up only where an anomaly is new or has changed: one more scan of its hour.
sample AS MATERIALIZED (
    SELECT w.window_start, w.kind, w.auth_id, w.resource_id, w.model_id, min(e.request_id) AS request_id
    FROM (SELECT DISTINCT window_start FROM anomaly_diff WHERE $23 AND events IS NOT NULL) h
    CROSS JOIN LATERAL (
        SELECT coalesce(auth_id, '') AS auth_id, coalesce(resource_id, '') AS resource_id,
            coalesce(model, '') AS model_id, coalesce(base_model, '') AS base_model,
            ((prompt_tokens | cached_tokens | completion_tokens) < 0) IS NOT FALSE AS malformed,
            min(request_id COLLATE "C") AS request_id
        FROM billing_event
        WHERE COALESCE(event_ts, created_at) >= h.window_start
            AND COALESCE(event_ts, created_at) < h.window_start + interval '1 hour'
            AND (coalesce(auth_id, ''), coalesce(resource_id, ''), coalesce(model, ''), coalesce(base_model, ''))
                IN (SELECT auth_id, resource_id, model_id, base_model FROM withheld)
        GROUP BY 1, 2, 3, 4, 5
    ) e
    JOIN withheld w USING (window_start, auth_id, resource_id, model_id, base_model, malformed)
    GROUP BY w.window_start, w.kind, w.auth_id, w.resource_id, w.model_id
),
anomaly_gone AS (
    DELETE FROM rating_anomaly o USING anomaly_diff d
    WHERE $23 AND d.events IS NULL AND o.window_start = d.window_start AND o.kind = d.kind
        AND o.auth_id = d.auth_id AND o.resource_id = d.resource_id AND o.model_id = d.model_id
),
anomaly_kept AS (
    INSERT INTO rating_anomaly (window_start, kind, auth_id, resource_id, model_id, base_models,
        events, prompt_tokens, cached_tokens, completion_tokens, sample_request_id, run_id)
    SELECT d.window_start, d.kind, d.auth_id, d.resource_id, d.model_id, d.base_models,
        d.events, d.prompt_tokens, d.cached_tokens, d.completion_tokens, s.request_id, $3
    FROM anomaly_diff d
    LEFT JOIN sample s USING (window_start, kind, auth_id, resource_id, model_id)
    WHERE $23 AND d.events IS NOT NULL
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (window_start, kind, auth_id, resource_id, model_id) DO UPDATE SET
        base_models = excluded.base_models, events = excluded.events,
        prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
        completion_tokens = excluded.completion_tokens,
        sample_request_id = excluded.sample_request_id, run_id = excluded.run_id
),
-- An audit's view of the changes: the fresh tokens at the row's own rates, where it has them all
-- and they are money. What an adopted row does not state can't disagree.
compared AS (
    SELECT c.*,
        CASE WHEN held_cost >= 0 AND held_cost < 1e16 THEN held_cost END AS billed,
        CASE
            WHEN operation = 'delete' THEN 0
            WHEN num_nulls(held_prompt_rate, held_cached_rate, held_completion_rate) = 0
                AND least(held_prompt_rate, held_cached_rate, held_completion_rate) >= 0
                AND greatest(held_prompt_rate, held_cached_rate, held_completion_rate) < 1e16
            THEN billable_prompt_tokens * held_prompt_rate + cached_tokens * held_cached_rate
                + completion_tokens * held_completion_rate
            ELSE new_cost
        END AS fresh_cost,
        coalesce(held_currency_code::text, CASE WHEN operation = 'insert' THEN $8::text ELSE '' END) AS currency,
        CASE
            WHEN operation = 'insert' THEN 'events_missing_row'
            WHEN operation = 'delete' AND (held_window_start, held_auth_id, held_resource_id, held_model_id)
                IN (SELECT window_start, auth_id, resource_id, model_id FROM withheld) THEN 'events_not_priced'
            WHEN operation = 'delete' THEN 'events_extra_row'
            WHEN (held_event_count <> event_count OR held_prompt_tokens <> prompt_tokens
                OR held_cached_tokens <> cached_tokens OR held_completion_tokens <> completion_tokens
                OR held_billable_prompt_tokens <> billable_prompt_tokens) IS TRUE THEN 'events_tokens'
        END AS difference
    FROM changes c
    WHERE $26
),
disagreeing AS MATERIALIZED (
    SELECT c.*, CASE WHEN difference IS NOT NULL THEN difference
        WHEN held_cost IS DISTINCT FROM fresh_cost THEN 'events_cost'
        ELSE 'events_currency' END AS finding
    FROM compared c
    WHERE difference IS NOT NULL OR held_cost IS DISTINCT FROM fresh_cost OR held_currency_code <> $8::text
)
SELECT
    (SELECT coalesce(sum(events), 0)::bigint FROM scan) AS "events!",
    d.rated_events AS "rated_events!",
    w.unpriced_events AS "unpriced_events!",
    w.unattributable_events AS "unattributable_events!",
    w.ambiguous_base_events AS "ambiguous_base_events!",
    w.malformed_events AS "malformed_events!",
    d.clamped_events AS "clamped_events!",
    d.inserted_rollups AS "inserted_rollups!",
    d.updated_rollups AS "updated_rollups!",
    d.unchanged_rollups AS "unchanged_rollups!",
    d.reconciled_deletions AS "reconciled_deletions!",
    d.shrunk_rollups AS "shrunk_rollups!",
    d.rate_drift_rollups AS "rate_drift_rollups!",
    d.unexplained_rollups AS "unexplained_rollups!",
    trim_scale(d.previous_cost)::text AS "previous_cost!",
    trim_scale(d.total_cost)::text AS "total_cost!",
    (SELECT count(*) FROM inserted) AS "rows_inserted!",
    (SELECT count(*) FROM updated) AS "rows_updated!",
    (SELECT count(*) FROM deleted) AS "rows_deleted!",
    (SELECT count(*) FROM recorded) AS "changes_recorded!",
    trim_scale(d.lost_cost)::text AS "lost_cost!",
    d.highest_fence,
    d.foreign_currency,
    CASE WHEN $24 THEN ARRAY(
        SELECT sha256(coalesce(hashes, '')) FROM unnest($22) AS h (window_start)
        LEFT JOIN hashed ON hour = h.window_start ORDER BY h.window_start
    ) END AS hour_hashes,
    CASE WHEN $25 THEN (
        SELECT coalesce(json_agg(c), '[]') FROM (
            SELECT key_model_id AS model, key_auth_id AS auth_id,
                trim_scale(coalesce(sum(held_cost), 0))::text AS previous,
                trim_scale(coalesce(sum(new_cost), 0))::text AS total,
                count(*) FILTER (WHERE operation = 'insert') AS inserted,
                count(*) FILTER (WHERE operation = 'update') AS updated,
                count(*) FILTER (WHERE operation = 'delete') AS deleted
            FROM changes GROUP BY GROUPING SETS ((key_model_id), (key_auth_id))
        ) c
    ) END AS "cost_changes: Json<Vec<CostRow>>",
    CASE WHEN $25 THEN (
        SELECT coalesce(json_agg(t), '[]') FROM (
            SELECT model, sum(events)::bigint AS events,
                coalesce(sum(events) FILTER (WHERE kind = 'unpriced'), 0)::bigint AS unpriced_events,
                coalesce(array_agg(DISTINCT via_base_model) FILTER (WHERE via_base_model IS NOT NULL), '{}')
                    AS base_models
            FROM classified WHERE kind <> 'unattributable' GROUP BY model
        ) t
    ) END AS "traffic: Json<Vec<TrafficRow>>",
    CASE WHEN $26 THEN json_build_object(
        'totals', (
            SELECT coalesce(json_agg(t), '[]') FROM (
                SELECT finding, currency AS currency_code, count(*) AS rows, coalesce(sum(billed), 0) AS billed,
                    coalesce(sum(greatest(coalesce(billed, 0) - fresh_cost, 0)), 0) AS over_billed,
                    coalesce(sum(greatest(fresh_cost - coalesce(billed, 0), 0)), 0) AS under_billed
                FROM disagreeing GROUP BY finding, currency
                -- Told, and no disagreement: events that nobody bills, and rates that are not the book's.
                UNION ALL
                SELECT 'unbilled_' || kind, '', sum(events)::bigint, 0, 0, 0 FROM withheld GROUP BY kind
                UNION ALL
                SELECT 'rate_drift', coalesce(held_currency_code::text, ''), count(*),
                    coalesce(sum(held_cost) FILTER (WHERE held_cost < 1e16), 0), 0, 0
                FROM diff WHERE frozen AND NOT same_rates AND operation <> 'delete' GROUP BY 2
            ) t
        ),
        'rows', (
            SELECT coalesce(json_agg(r), '[]') FROM (
                SELECT finding, key_window_start AS window_start, key_auth_id AS auth_id,
                    key_resource_id AS resource_id, key_model_id AS model_id,
                    coalesce(held_price_class, 'standard') AS price_class, currency AS currency_code,
                    billed, fresh_cost AS expected,
                    CASE finding WHEN 'events_currency'
                    THEN format('it is in %s and the pricebook in %s: no run goes over its hour', currency, $8)
                    ELSE format('it has %s events, %s prompt, %s cached, %s completion tokens; '
                        'by its events it has %s, %s, %s, %s',
                        coalesce(held_event_count::text, 'no'), coalesce(held_prompt_tokens::text, 'no'),
                        coalesce(held_cached_tokens::text, 'no'), coalesce(held_completion_tokens::text, 'no'),
                        coalesce(event_count, 0), coalesce(prompt_tokens, 0), coalesce(cached_tokens, 0),
                        coalesce(completion_tokens, 0)) END AS detail
                FROM disagreeing ORDER BY ordinal LIMIT 1000
            ) r
        )
    )::text END AS audit
FROM (
    SELECT
        coalesce(sum(event_count), 0)::bigint AS rated_events,
        coalesce(sum(clamped_events), 0)::bigint AS clamped_events,
        count(*) FILTER (WHERE operation = 'insert') AS inserted_rollups,
        count(*) FILTER (WHERE operation = 'update') AS updated_rollups,
        count(*) FILTER (WHERE operation IN ('unchanged', 'left')) AS unchanged_rollups,
        count(*) FILTER (WHERE operation = 'delete') AS reconciled_deletions,
        count(*) FILTER (WHERE operation = 'update' AND event_count < held_event_count) AS shrunk_rollups,
        count(*) FILTER (WHERE frozen AND NOT same_rates AND operation <> 'delete') AS rate_drift_rollups,
        count(*) FILTER (WHERE operation = 'left') AS unexplained_rollups,
        coalesce(sum(held_cost), 0) AS previous_cost,
        coalesce(sum(CASE operation WHEN 'delete' THEN NULL WHEN 'left' THEN held_cost ELSE new_cost END), 0)
            AS total_cost,
        -- What billed usage shrinks by; new usage doesn't make up for it.
        coalesce(sum(CASE WHEN operation = 'delete' THEN held_cost
            WHEN operation = 'update' AND event_count < held_event_count
            THEN greatest(held_cost - new_cost, 0) END), 0) AS lost_cost,
        max(held_fence) AS highest_fence,
        min(held_currency_code) FILTER (WHERE held_currency_code <> $8::text) AS foreign_currency
    FROM diff
) d,
(
    SELECT
        coalesce(sum(events) FILTER (WHERE kind = 'unpriced'), 0)::bigint AS unpriced_events,
        coalesce(sum(events) FILTER (WHERE kind = 'unattributable'), 0)::bigint AS unattributable_events,
        coalesce(sum(events) FILTER (WHERE kind = 'ambiguous_base'), 0)::bigint AS ambiguous_base_events,
        coalesce(sum(events) FILTER (WHERE kind = 'malformed'), 0)::bigint AS malformed_events
    FROM withheld
) w
