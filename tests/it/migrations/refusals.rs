//! What can't be adopted is refused in one line that says what to do; done that, up goes on.

use rater::service::schema;
use rater::store::Db;

use super::{BILLING_EVENT, RATED_USAGE, again, indexes, open, row, run, with};
use crate::harness::{TestDb, empty_database};

/// What up says of a database with these tables.
async fn refusal((database, db): &(TestDb, Db), sql: &str) -> String {
    again(database, sql).await;
    let line = schema::up(db).await.expect_err(sql).to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(schema::check(db).await.is_err(), "a service would start");
    line
}

#[tokio::test]
async fn events_that_cannot_be_adopted_are_refused_with_what_to_change() {
    let database = with("").await;
    let one = |from: &str, to: &str| {
        let sql = BILLING_EVENT.replace(from, to);
        assert_ne!(sql, BILLING_EVENT);
        sql
    };
    for (sql, says) in [
        (
            one("timestamptz", "timestamp"),
            "created_at is timestamp without time zone, not timestamp with time zone",
        ),
        (
            one("varchar(255) PRIMARY KEY", "varchar(255)"),
            "no primary key or unique index on request_id alone",
        ),
        (one("note text", "event_ts timestamp, note text"), "event_ts is timestamp without time zone"),
        (one("prompt_tokens integer", "prompt_tokens numeric"), "prompt_tokens is numeric, not integer"),
        (one("auth_id varchar(64)", "auth_id uuid").replace("'auth-' || n % 7", "NULL"), "auth_id is uuid"),
    ] {
        let line = refusal(&database, &sql).await;
        assert!(line.starts_with("billing_event can't be adopted: ") && line.contains(says), "{line}");
        assert!(line.ends_with("; change that and run it again"), "{line}");
    }
    // All at once, not one a try.
    let sql = one("timestamptz", "timestamp").replace("(255) PRIMARY KEY", "(255)");
    let sql = format!(
        "{sql}; ALTER TABLE billing_event ADD \"Tenant\" text NOT NULL DEFAULT '';
        ALTER TABLE billing_event ALTER \"Tenant\" DROP DEFAULT"
    );
    let line = refusal(&database, &sql).await;
    for says in ["created_at is", "no primary key", "\"Tenant\" is NOT NULL, has no default"] {
        assert!(line.contains(says), "{line}");
    }
}

#[tokio::test]
async fn no_event_gets_the_time_of_its_adoption() {
    let database = with("").await;
    let timeless = BILLING_EVENT.replace(", created_at timestamptz NOT NULL DEFAULT now()", "");
    let line = refusal(&database, &timeless).await;
    assert!(line.contains("it has no created_at, and rows without an event_ts"), "{line}");
    let timed = timeless.replace("note text", "event_ts timestamptz, note text");
    assert_eq!(refusal(&database, &timed).await, line);
    let (_database, db) = with(&format!("{timed}; UPDATE billing_event SET event_ts = '2026-01-01Z'")).await;
    schema::up(&db).await.unwrap();
}

#[tokio::test]
async fn usage_that_cannot_be_adopted_is_refused_with_what_to_change() {
    let database = with("").await;
    let after = |sql: &str| format!("{RATED_USAGE}; {sql}");
    for (sql, says) in [
        (
            after("ALTER TABLE rated_usage ALTER cost TYPE double precision"),
            "cost is double precision, not numeric",
        ),
        (
            after("ALTER TABLE rated_usage ALTER window_start TYPE timestamp"),
            "window_start is timestamp without",
        ),
        (
            after("ALTER TABLE rated_usage ALTER prompt_tokens TYPE integer"),
            "prompt_tokens is integer, not bigint",
        ),
        (after("ALTER TABLE rated_usage DROP auth_id"), "it has no auth_id"),
        (
            after(
                "ALTER TABLE rated_usage ADD tenant text NOT NULL DEFAULT ''; ALTER TABLE rated_usage ALTER tenant DROP DEFAULT",
            ),
            "tenant is NOT NULL, has no default",
        ),
        (
            after("CREATE INDEX rated_usage_window_start_ix ON rated_usage (window_end)"),
            "another rated_usage_window_start_ix",
        ),
        ("CREATE VIEW rated_usage AS SELECT 1 AS id".into(), "it is not an ordinary table"),
        (
            after("CREATE VIEW spend AS SELECT auth_id, sum(cost) AS cost FROM rated_usage GROUP BY 1"),
            "cost must become numeric, but rule _RETURN on view spend depends on column \"cost\"; drop that",
        ),
        (
            after(
                "CREATE TABLE line (auth_id text, resource_id text, model_id text, window_start timestamptz,
                FOREIGN KEY (auth_id, resource_id, model_id, window_start)
                REFERENCES rated_usage (auth_id, resource_id, model_id, window_start))",
            ),
            "another table references its unique key",
        ),
    ] {
        let line = refusal(&database, &sql).await;
        assert!(line.starts_with("rated_usage can't be adopted: ") && line.contains(says), "{line}");
        assert!(line.contains("run it again"), "{line}");
    }
}

#[tokio::test]
async fn rows_with_the_same_key_are_refused_by_name_and_nobody_is_kept_from_writing() {
    let sql = RATED_USAGE.replace(", UNIQUE (auth_id, resource_id, model_id, window_start)", "");
    let copy =
        "INSERT INTO rated_usage SELECT md5(id), auth_id, resource_id, model_id, window_start, window_end,
        prompt_tokens, cached_tokens, completion_tokens, cost FROM rated_usage WHERE auth_id = 'auth-5'";
    let copy = copy
        .replace("cost FROM", "cost, applied_prompt_rate, applied_cached_rate, applied_completion_rate FROM");
    let (database, db) = with(&format!("{sql}; {copy}")).await;
    for _ in 0..2 {
        let line = schema::up(&db).await.unwrap_err().to_string();
        let says = "rated_usage can't be adopted: it has rows with the same key, which would be billed twice \
            (Key (auth_id, resource_id, model_id, window_start, price_class)=(auth-5, resource-1, acme/large,";
        assert!(
            line.starts_with(says) && line.ends_with("delete all but the right one and run it again"),
            "{line}"
        );
        // The index that could not be built would go on refusing rows.
        assert_eq!(indexes(database.pool(), "rated_usage").await.len(), 0);
    }
    run(database.pool(), "DELETE FROM rated_usage WHERE id = md5(md5('5'))").await;
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT count(*) FROM rated_usage").await, "1000");
}

#[tokio::test]
async fn another_programs_tables_with_our_names_are_neither_used_nor_dropped() {
    let (database, db) =
        with("CREATE TABLE pricebook (isbn text, price money); INSERT INTO pricebook VALUES ('1', 2)").await;
    let line = schema::up(&db).await.unwrap_err().to_string();
    assert!(line.starts_with("the schema public has another program's pricebook; rename that"), "{line}");
    schema::down(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT count(*) FROM pricebook").await, "1");
    run(database.pool(), "CREATE SCHEMA rating").await;
    let db = open(&format!("{}&options[search_path]=rating,public", database.url));
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    schema::down(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT count(*) FROM public.pricebook").await, "1");

    let (database, db) = with("CREATE TABLE table_job (job int); INSERT INTO table_job VALUES (1)").await;
    let line = schema::up(&db).await.unwrap_err().to_string();
    assert!(line.starts_with("the schema public has another program's table_job; rename that"), "{line}");
    schema::down(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT count(*) FROM table_job").await, "1");
}

#[tokio::test]
async fn what_the_database_refuses_is_said_in_its_words() {
    let database = empty_database().await;
    let name = row(database.pool(), "SELECT current_database()").await;
    run(
        database.pool(),
        &format!(
            "{BILLING_EVENT}; CREATE ROLE weak_{name} LOGIN PASSWORD 'weak';
        REVOKE CREATE ON SCHEMA public FROM public"
        ),
    )
    .await;
    let server = database.url.split_once('@').unwrap().1;
    let db = open(&format!("postgres://weak_{name}:weak@{server}"));
    let line = schema::up(&db).await.unwrap_err().to_string();
    assert_eq!(line, "the database can't be migrated: permission denied for schema public");
    run(database.pool(), &format!("GRANT CREATE ON SCHEMA public TO weak_{name}")).await;
    let line = schema::up(&db).await.unwrap_err().to_string();
    assert_eq!(line, "migration step 1 failed: must be owner of table billing_event");
    let line = schema::status(&open(&database.url.replace(&name, "nowhere"))).await.unwrap_err().to_string();
    assert_eq!(line, "the database can't be migrated: database \"nowhere\" does not exist");
    let line = schema::up(&open("postgres://rater:geheim@127.0.0.1:1/rater")).await.unwrap_err().to_string();
    assert!(line.contains("Connection refused") && !line.contains("geheim"), "{line}");
    run(database.pool(), &format!("DROP OWNED BY weak_{name} CASCADE; DROP ROLE weak_{name}")).await;
}
