//! Tables of other programs, adopted as they are: not a row lost, changed or moved.

use rater::service::schema;
use sqlx::postgres::PgPool;

use super::{BILLING_EVENT, RATED_USAGE, catalog, open, refused, row, rows, run, with};
use crate::harness::empty_database;

/// Every row with all that it held before, where it lies and which transaction wrote it.
async fn theirs(pool: &PgPool) -> Vec<String> {
    let events =
        "SELECT (ctid, xmin, request_id, auth_id, resource_id, model, prompt_tokens, completion_tokens,
        note, created_at) FROM billing_event ORDER BY request_id";
    let usage =
        "SELECT (ctid, xmin, id, auth_id, resource_id, model_id, window_start, window_end, prompt_tokens,
        cached_tokens, completion_tokens, cost, applied_prompt_rate, applied_cached_rate,
        applied_completion_rate, note) FROM rated_usage ORDER BY id";
    [rows(pool, events).await, rows(pool, usage).await].concat()
}

/// Where the tables' rows and indexes are stored: another file is a rewrite.
async fn files(pool: &PgPool) -> Vec<String> {
    rows(
        pool,
        "SELECT (relname, pg_relation_filenode(oid)) FROM pg_class
         WHERE oid IN ('billing_event'::regclass, 'rated_usage'::regclass,
            'billing_event_pkey'::regclass, 'rated_usage_pkey'::regclass) ORDER BY relname",
    )
    .await
}

#[tokio::test]
async fn not_a_row_is_lost_changed_or_moved() {
    let (database, db) = with(&format!("{BILLING_EVENT}; {RATED_USAGE}")).await;
    let pool = database.pool();
    let (before, stored) = (theirs(pool).await, files(pool).await);
    assert_eq!(before.len(), 2000);
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    assert_eq!(theirs(pool).await, before);
    assert_eq!(files(pool).await, stored, "no table is written anew");
    let up = catalog(pool).await;
    schema::down(&db).await.unwrap();
    assert_eq!(theirs(pool).await, before);
    schema::up(&db).await.unwrap();
    assert_eq!(theirs(pool).await, before);
    assert_eq!(files(pool).await, stored);
    assert_eq!(catalog(pool).await, up);

    // Nothing is made up where they had nothing.
    let sql = "SELECT count(*) FROM rated_usage WHERE price_class = 'standard' AND currency_code IS NULL
        AND event_count IS NULL AND billable_prompt_tokens IS NULL AND run_id IS NULL AND rated_at IS NULL";
    assert_eq!(row(pool, sql).await, "1000");
    let sql =
        "SELECT count(*) FROM billing_event WHERE event_ts IS NULL AND cached_tokens = 0 AND aborted IS NULL";
    assert_eq!(row(pool, sql).await, "1000");
    assert_eq!(row(pool, "SELECT whole_story FROM change_feed").await, "false");
}

#[tokio::test]
async fn other_writers_of_events_go_on_and_may_leave_out_what_an_event_may_lack() {
    let (database, db) = with(BILLING_EVENT).await;
    run(
        database.pool(),
        "ALTER TABLE billing_event ALTER created_at DROP DEFAULT, ALTER auth_id SET NOT NULL",
    )
    .await;
    schema::up(&db).await.unwrap();
    let insert = "INSERT INTO billing_event (request_id, model, prompt_tokens, completion_tokens)
        VALUES ('req-new', NULL, 1, 2)";
    run(database.pool(), insert).await;
    let sql = "SELECT created_at IS NOT NULL FROM billing_event WHERE request_id = 'req-new'";
    assert_eq!(row(database.pool(), sql).await, "true");
}

#[tokio::test]
async fn money_of_any_size_is_widened_without_a_rewrite() {
    for size in ["(20,9)", "(10,0)", "(38,18)"] {
        let sql = RATED_USAGE.replace("(20,9)", size);
        let (database, db) =
            with(&format!("{BILLING_EVENT}; {sql}; CREATE INDEX by_cost ON rated_usage (cost)")).await;
        let pool = database.pool();
        let (before, stored) = (theirs(pool).await, files(pool).await);
        let index = "SELECT pg_relation_filenode('by_cost')";
        let index_stored = row(pool, index).await;
        schema::up(&db).await.unwrap();
        assert_eq!(theirs(pool).await, before, "{size}");
        assert_eq!(files(pool).await, stored, "numeric{size} was rewritten");
        assert_eq!(row(pool, index).await, index_stored, "numeric{size}'s index was rewritten");
        let sql = "SELECT DISTINCT atttypmod FROM pg_attribute WHERE attrelid = 'rated_usage'::regclass
            AND (attname = 'cost' OR attname LIKE 'applied_%')";
        assert_eq!(rows(pool, sql).await, ["-1"], "{size}");
        // Whatever scale the adopted rates carry: the same row, explained and priced once more.
        let update = "UPDATE rated_usage SET billable_prompt_tokens = prompt_tokens - cached_tokens,
            cost = prompt_tokens * applied_prompt_rate + completion_tokens * applied_completion_rate";
        run(pool, update).await;
    }
}

#[tokio::test]
async fn checks_are_proven_where_adopted_rows_allow_it_and_hold_new_rows_anyway() {
    let proven = "SELECT format('%s %s', conname, convalidated) FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND contype = 'c' ORDER BY conname";
    let (database, db) = with(RATED_USAGE).await;
    let explained = "ALTER TABLE rated_usage ADD billable_prompt_tokens bigint;
        UPDATE rated_usage SET billable_prompt_tokens = prompt_tokens";
    run(database.pool(), explained).await;
    schema::up(&db).await.unwrap();
    let both = ["rated_usage_explains_itself t", "rated_usage_money_fits t"];
    assert_eq!(rows(database.pool(), proven).await, both);

    let (database, db) = with(&format!("{RATED_USAGE}; UPDATE rated_usage SET cost = -1")).await;
    schema::up(&db).await.unwrap();
    let neither = ["rated_usage_explains_itself f", "rated_usage_money_fits f"];
    assert_eq!(rows(database.pool(), proven).await, neither);
    assert_eq!(refused(database.pool(), "UPDATE rated_usage SET note = 'touched'").await, "23514");
    run(database.pool(), "DELETE FROM rated_usage").await;
}

#[tokio::test]
async fn a_rollup_can_hold_every_name_that_an_event_can() {
    let (database, db) = with(&format!("{BILLING_EVENT}; {RATED_USAGE}")).await;
    let pool = database.pool();
    let narrow = "ALTER TABLE billing_event ALTER model TYPE text, ALTER auth_id TYPE varchar(100);
        ALTER TABLE rated_usage ALTER model_id TYPE varchar(40), ALTER resource_id TYPE varchar(20),
            ADD run_id varchar(10), ADD pricebook_digest varchar(32)";
    run(pool, narrow).await;
    let (before, stored) = (theirs(pool).await, files(pool).await);
    schema::up(&db).await.unwrap();
    assert_eq!(theirs(pool).await, before);
    assert_eq!(files(pool).await, stored);
    let insert = "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end,
            prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate,
            applied_cached_rate, applied_completion_rate, run_id, pricebook_digest)
        VALUES ('new', repeat('a', 100), repeat('r', 64), repeat('m', 1000), now(), now(), 0, 0, 0, 0, 0, 0, 0, 0,
            repeat('r', 36), repeat('d', 64))";
    run(pool, insert).await;
}

#[tokio::test]
async fn tables_are_adopted_where_the_search_path_finds_them() {
    // As with a schema of the user's own, which stands first in the default search path.
    let (database, _) = with(&format!("{BILLING_EVENT}; {RATED_USAGE}; CREATE SCHEMA mine")).await;
    let db = open(&format!("{}&options[search_path]=mine,public", database.url));
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    let pool = database.pool();
    assert_eq!(row(pool, "SELECT to_regclass('mine.billing_event')").await, "NULL", "no second, empty table");
    assert_eq!(row(pool, "SELECT to_regclass('mine.rated_usage')").await, "NULL");
    assert_eq!(row(pool, "SELECT to_regclass('mine.rating_lease')").await, "mine.rating_lease");
    assert_eq!(row(pool, "SELECT to_regclass('public.rating_lease')").await, "NULL");
    assert_eq!(super::indexes(pool, "public.billing_event").await, ["billing_event_rating_instant_ix"]);
    schema::down(&db).await.unwrap();
    assert_eq!(row(pool, "SELECT count(*) FROM public.billing_event").await, "1000");
}

#[tokio::test]
async fn another_programs_migrations_are_left_alone() {
    let theirs = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
            installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
            execution_time bigint NOT NULL);
        INSERT INTO _sqlx_migrations VALUES (1, 'theirs', now(), false, '', 0), (99, 'theirs', now(), true, '', 0)";
    let (database, db) = with(theirs).await;
    let sql = "SELECT (ctid, xmin, t.*) FROM _sqlx_migrations t ORDER BY version";
    let before = rows(database.pool(), sql).await;
    schema::up(&db).await.unwrap();
    assert_eq!(rows(database.pool(), sql).await, before);
    schema::down(&db).await.unwrap();
    assert_eq!(rows(database.pool(), sql).await, before);
}

#[tokio::test]
async fn quoted_names_of_databases_and_users_are_fine() {
    let database = empty_database().await;
    let pool = database.pool();
    let suffix = row(pool, "SELECT replace(current_database(), 'test_', '')").await;
    let name = format!("It's \"q\" Größe {suffix}");
    let quoted = name.replace('"', "\"\"");
    run(pool, &format!("CREATE DATABASE \"{quoted}\"")).await;
    run(pool, &format!("CREATE ROLE \"{quoted}\" LOGIN SUPERUSER PASSWORD 'p@ss/w:rd'")).await;
    let encoded = name.replace(' ', "%20").replace('"', "%22");
    let server = database.url.split_once('@').unwrap().1;
    let server = server.split_once('/').unwrap().0;
    let url = format!("postgres://{encoded}:p%40ss%2Fw%3Ard@{server}/{encoded}?sslmode=disable");
    let db = open(&url);
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    schema::down(&db).await.unwrap();
    run(pool, &format!("DROP DATABASE \"{quoted}\" WITH (FORCE)")).await;
    run(pool, &format!("DROP ROLE \"{quoted}\"")).await;
}
