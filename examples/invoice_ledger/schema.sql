-- The ledger's own database. Run, in one transaction, where ledger_line is not there; repeatable,
-- and processes that start together take turns.
SELECT pg_advisory_xact_lock(7305804385371857484);

-- Where this consumer stands. One row; whoever moves it adds 1 to its version, and moves nothing
-- where the version is not the one that it knew.
CREATE TABLE IF NOT EXISTS consumer (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL DEFAULT 0,
    -- Hours from here on are billed by this ledger; NULL: all.
    since timestamptz,
    phase text NOT NULL DEFAULT 'copying' CHECK (phase IN ('copying', 'catching up', 'following')),
    -- The how manieth first copy.
    copy_number bigint NOT NULL DEFAULT 1,
    -- While copying: the next page. Empty: the first one.
    page_token text NOT NULL DEFAULT '',
    -- The place in the feed: while copying that of the first page.
    cursor text NOT NULL DEFAULT '',
    moved_at timestamptz NOT NULL DEFAULT now()
);

-- Each rollup as its lines add up to it: for every row here and every quantity,
-- sum(ledger_line) = rollup, at every commit. Its key is the one that rater's table is unique by;
-- the ids of a table that rater adopted may be empty, or there twice.
CREATE TABLE IF NOT EXISTS rollup (
    auth_id text NOT NULL,
    resource_id text NOT NULL,
    model_id text NOT NULL,
    window_start timestamptz NOT NULL,
    price_class text NOT NULL,
    currency text NOT NULL,
    prompt_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    event_count bigint NOT NULL,
    cost numeric NOT NULL,
    PRIMARY KEY (auth_id, resource_id, model_id, window_start, price_class)
);

-- A first copy that is being made. Nothing is billed from it before it is whole.
CREATE TABLE IF NOT EXISTS rollup_copy (LIKE rollup INCLUDING ALL);

-- What was, or is being, told to the invoicing API: the body as it was first sent, for as long as
-- it is not known to have arrived.
CREATE TABLE IF NOT EXISTS delivery (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    -- The API's idempotency key.
    id text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 100),
    channel text NOT NULL CHECK (channel IN ('meter', 'invoice_item')),
    body jsonb NOT NULL,
    -- Before it is sent for the first time.
    claimed_at timestamptz NOT NULL DEFAULT now(),
    -- When the API had said that it has it.
    sent_at timestamptz,
    -- Why it never will: it waits for a person.
    refused text
);
CREATE INDEX IF NOT EXISTS delivery_unsent_ix ON delivery (seq) WHERE sent_at IS NULL;

-- The ledger: signed differences, only ever added.
CREATE TABLE IF NOT EXISTS ledger_line (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    line_id text PRIMARY KEY CHECK (length(line_id) BETWEEN 1 AND 100),
    auth_id text NOT NULL,
    resource_id text NOT NULL,
    model_id text NOT NULL,
    -- When the usage was: the hour's start.
    window_start timestamptz NOT NULL,
    price_class text NOT NULL,
    -- Empty where an adopted row has none: held back.
    currency text NOT NULL,
    prompt_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    event_count bigint NOT NULL,
    amount numeric NOT NULL,
    kind text NOT NULL CHECK (kind IN ('usage', 'correction')),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    -- How it was told; NULL: not yet. The only column that is ever updated.
    delivery_id text REFERENCES delivery DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX IF NOT EXISTS ledger_line_untold_ix ON ledger_line (seq) WHERE delivery_id IS NULL AND amount <> 0;
CREATE INDEX IF NOT EXISTS ledger_line_delivery_id_ix ON ledger_line (delivery_id) WHERE delivery_id IS NOT NULL;

-- Who a customer is to the invoicing API.
CREATE TABLE IF NOT EXISTS customer (
    auth_id text PRIMARY KEY,
    customer_id text NOT NULL CHECK (customer_id <> ''),
    -- Hours before this are on an invoice that is final; NULL: none.
    billed_until timestamptz
);
