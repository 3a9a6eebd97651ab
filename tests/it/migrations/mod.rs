//! The promises of the schema: tables that are there are adopted as they are, up and down go
//! both ways and from anywhere, and neither is in anybody's way.

mod adoption;
mod command;
mod keys;
mod locks;
mod refusals;
mod steps;
mod versions;

use std::time::Duration;

use rater::store::{Db, DbOptions};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::harness::{TestDb, empty_database};

/// Tables as another program made them, before there was a rater: without our newer columns,
/// with money of a fixed size, and unique on four columns.
const BILLING_EVENT: &str = "
    CREATE TABLE billing_event (
        request_id varchar(255) PRIMARY KEY, auth_id varchar(64), resource_id varchar(64),
        model varchar(255) NOT NULL, prompt_tokens integer NOT NULL, completion_tokens integer NOT NULL,
        note text NOT NULL DEFAULT '', created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, completion_tokens, note)
        SELECT 'req-' || n, 'auth-' || n % 7, 'resource-1', 'acme/large', n, n * 2, 'theirs'
        FROM generate_series(1, 1000) n";
const RATED_USAGE: &str = "
    CREATE TABLE rated_usage (
        id varchar(32) PRIMARY KEY, auth_id varchar(64) NOT NULL, resource_id varchar(64) NOT NULL,
        model_id varchar(255) NOT NULL, window_start timestamptz NOT NULL, window_end timestamptz NOT NULL,
        prompt_tokens bigint NOT NULL, cached_tokens bigint NOT NULL, completion_tokens bigint NOT NULL,
        cost numeric(20,9) NOT NULL, applied_prompt_rate numeric(20,9) NOT NULL,
        applied_cached_rate numeric(20,9) NOT NULL, applied_completion_rate numeric(20,9) NOT NULL,
        note text, UNIQUE (auth_id, resource_id, model_id, window_start));
    INSERT INTO rated_usage
        SELECT md5(n::text), 'auth-' || n, 'resource-1', 'acme/large', '2026-01-01Z', '2026-01-01 01:00Z',
            n, 0, n, n * 0.000000003, 0.000000001, 0.000000001, 0.000000002, 'theirs'
        FROM generate_series(1, 1000) n";

fn open(url: &str) -> Db {
    let options = DbOptions { url: url.into(), max_connections: 2, acquire_timeout: Duration::from_secs(10) };
    Db::new(&options).unwrap()
}

/// A new database with these tables and rows in it.
async fn with(sql: &str) -> (TestDb, Db) {
    let database = empty_database().await;
    run(database.pool(), sql).await;
    let db = open(&database.url);
    (database, db)
}

/// The same in a database that a test has used before.
async fn again(database: &TestDb, sql: &str) {
    run(database.pool(), &format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public; {sql}")).await;
}

async fn try_run(pool: &PgPool, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.map(drop)
}

async fn run(pool: &PgPool, sql: &str) {
    try_run(pool, sql).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// The SQLSTATE that a statement is refused with.
async fn refused(pool: &PgPool, sql: &str) -> String {
    let error = try_run(pool, sql).await.expect_err(sql);
    error.as_database_error().and_then(|said| said.code()).unwrap_or_default().into_owned()
}

/// The first column, a row a line.
async fn rows(pool: &PgPool, sql: &str) -> Vec<String> {
    let sql = format!("SELECT coalesce(q.a::text, 'NULL') FROM ({sql}) AS q (a)");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap()
}

async fn row(pool: &PgPool, sql: &str) -> String {
    rows(pool, sql).await.join("\n")
}

/// What the schema `public` is made of, a line a thing.
async fn catalog(pool: &PgPool) -> Vec<String> {
    let sql = "
        SELECT format('column %s.%s %s %s %s', c.relname, a.attname, format_type(atttypid, atttypmod),
            attnotnull, pg_get_expr(adbin, adrelid)) AS a
        FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        UNION ALL SELECT format('%s %s', CASE relkind WHEN 'r' THEN 'table' ELSE 'sequence' END, relname)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')
        UNION ALL SELECT format('constraint %s.%s %s %s', conrelid::regclass, conname, convalidated,
            pg_get_constraintdef(oid))
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
        UNION ALL SELECT format('index %s %s', pg_get_indexdef(indexrelid), indisvalid)
        FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
        ORDER BY 1";
    rows(pool, sql).await
}

/// The indexes of a table, without those of `id` and `request_id`.
async fn indexes(pool: &PgPool, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT format('%s%s%s', indexrelid::regclass, CASE WHEN indisunique THEN ' unique' END,
            CASE WHEN NOT indisvalid THEN ' INVALID' END)
         FROM pg_index WHERE indrelid = '{table}'::regclass AND pg_get_indexdef(indexrelid, 1, false)
            NOT IN ('id', 'request_id') ORDER BY 1"
    );
    rows(pool, &sql).await
}
