-- R12: one record an insert, update and delete of a rollup, in the same transaction, and the
-- batch's place in the feed, which is taken under a lock as the last thing before COMMIT:
-- positions are in commit order.
CREATE TABLE IF NOT EXISTS change_batch (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL,
    run_id text NOT NULL,
    trigger text NOT NULL,
    changes bigint NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE change_batch IS 'rater: the place of each batch of changes in the feed';

CREATE TABLE IF NOT EXISTS rated_usage_change (
    batch_id uuid NOT NULL,
    ordinal bigint NOT NULL,
    operation text NOT NULL CHECK (operation IN ('insert', 'update', 'delete')),
    run_id text NOT NULL,
    id text,
    auth_id text NOT NULL,
    resource_id text NOT NULL,
    model_id text NOT NULL,
    window_start timestamptz NOT NULL,
    price_class text NOT NULL,
    before_window_end timestamptz,
    before_prompt_tokens bigint,
    before_cached_tokens bigint,
    before_completion_tokens bigint,
    before_billable_prompt_tokens bigint,
    before_event_count bigint,
    before_cost numeric,
    before_applied_prompt_rate numeric,
    before_applied_cached_rate numeric,
    before_applied_completion_rate numeric,
    before_currency_code char(3),
    before_pricebook_digest text,
    before_run_id text,
    before_rated_at timestamptz,
    after_prompt_tokens bigint,
    after_cached_tokens bigint,
    after_completion_tokens bigint,
    after_billable_prompt_tokens bigint,
    after_event_count bigint,
    after_cost numeric,
    after_applied_prompt_rate numeric,
    after_applied_cached_rate numeric,
    after_applied_completion_rate numeric,
    after_currency_code char(3),
    after_pricebook_digest text,
    after_rated_at timestamptz,
    PRIMARY KEY (batch_id, ordinal)
);
COMMENT ON TABLE rated_usage_change IS 'rater: every insert, update and delete of a rollup';

-- Whether the feed tells the whole story from its first change on: not where the table was
-- adopted with rows in it. Only this moment can know.
CREATE TABLE IF NOT EXISTS change_feed (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    whole_story boolean NOT NULL
);
COMMENT ON TABLE change_feed IS 'rater: what the feed as a whole can tell';
INSERT INTO change_feed (whole_story)
SELECT NOT EXISTS (SELECT FROM rated_usage)
ON CONFLICT DO NOTHING;
