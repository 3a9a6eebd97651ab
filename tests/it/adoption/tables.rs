//! Tables of another program's, as they were before there was a rater.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

/// How many rows; ten events a rollup, and a thousand rollups an hour.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub events: i64,
    pub rollups: i64,
}

const TABLES: &str = "
    CREATE TABLE billing_event (
        request_id varchar(255) PRIMARY KEY, auth_id varchar(64) NOT NULL, resource_id varchar(64),
        model varchar(255) NOT NULL, prompt_tokens integer NOT NULL, cached_tokens integer NOT NULL,
        completion_tokens integer NOT NULL, note text, created_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE rated_usage (
        id varchar(32) PRIMARY KEY, auth_id varchar(64) NOT NULL, resource_id varchar(64) NOT NULL,
        model_id varchar(255) NOT NULL, window_start timestamptz NOT NULL, window_end timestamptz NOT NULL,
        prompt_tokens bigint NOT NULL, cached_tokens bigint NOT NULL, completion_tokens bigint NOT NULL,
        billable_prompt_tokens bigint NOT NULL, cost numeric(20,9) NOT NULL,
        applied_prompt_rate numeric(20,9) NOT NULL, applied_cached_rate numeric(20,9) NOT NULL,
        applied_completion_rate numeric(20,9) NOT NULL, note text,
        UNIQUE (auth_id, resource_id, model_id, window_start))";

/// Makes them and fills them. A rollup is missing, and ten cost a cent too much.
pub async fn fill(pool: &PgPool, Size { events, rollups }: Size) {
    sqlx::raw_sql(TABLES).execute(pool).await.unwrap();
    let fill = format!(
        "INSERT INTO billing_event
         SELECT 'request-' || n, 'auth-' || n / 10 % 1000, 'resource-1', 'acme/large', 100, 40, 10, NULL,
             '2026-01-01Z'::timestamptz + n / 10000 * interval '1 hour' + n % 3600 * interval '1 second'
         FROM generate_series(0, {events} - 1) n;
         INSERT INTO rated_usage
         SELECT md5(n::text), 'auth-' || n % 1000, 'resource-1', 'acme/large', w, w + interval '1 hour',
             1000, 400, 100, 600, 0.00342 + CASE WHEN n % 1000 = 500 AND n < 10000 THEN 0.01 ELSE 0 END,
             0.000003, 0.0000003, 0.000015, 'theirs'
         FROM generate_series(0, {rollups} - 1) n
         CROSS JOIN LATERAL (SELECT '2026-01-01Z'::timestamptz + n / 1000 * interval '1 hour' AS w) h;
         DELETE FROM rated_usage WHERE id = md5('7');
         ANALYZE billing_event; ANALYZE rated_usage"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(pool).await.unwrap();
}

/// All that they held, but for what the client writes.
pub async fn checksum(pool: &PgPool) -> String {
    sqlx::query_scalar(
        "SELECT (SELECT sum(hashtextextended(concat_ws('|', request_id, auth_id, resource_id, model, prompt_tokens,
                 cached_tokens, completion_tokens, created_at), 0)) FROM billing_event WHERE request_id LIKE 'request-%')
             || ' ' || (SELECT sum(hashtextextended(concat_ws('|', id, auth_id, resource_id, model_id, window_start,
                 window_end, prompt_tokens, cost, applied_prompt_rate), 0)) FROM rated_usage)",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// So that a small table's audit can be met half-way.
pub async fn slow_batches(pool: &PgPool) {
    sqlx::raw_sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep(0.1); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE UPDATE ON table_job FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .execute(pool)
    .await
    .unwrap();
}
