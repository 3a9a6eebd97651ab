//! Up and down on a database of our own, and what its constraints hold.

use rater::service::schema;

use super::{catalog, open, refused, row, rows, run, with};
use crate::harness::{database, empty_database};

#[tokio::test]
async fn up_down_up_is_clean() {
    let database = empty_database().await;
    let db = open(&database.url);
    let taken = schema::up(&db).await.unwrap();
    assert_eq!(taken.first().map(|step| (step.version, step.applied)), Some((1, true)));
    let up = catalog(database.pool()).await;
    assert!(up.iter().all(|line| !line.starts_with("index") || line.ends_with(" t")), "{up:#?}");
    assert!(up.iter().all(|line| !line.starts_with("constraint") || line.contains(" t ")), "{up:#?}");

    let back = schema::down(&db).await.unwrap();
    assert_eq!(back.len(), taken.len());
    assert_eq!(back.last().map(|step| (step.version, step.applied)), Some((1, false)));
    let down = catalog(database.pool()).await;
    let things: Vec<&String> =
        down.iter().filter(|line| line.starts_with("table") || line.starts_with("seq")).collect();
    assert_eq!(things, ["table billing_event", "table rated_usage"], "no table, no sequence of ours is left");
    assert_eq!(schema::down(&db).await.unwrap(), []);

    assert_eq!(schema::up(&db).await.unwrap(), taken);
    assert_eq!(catalog(database.pool()).await, up);
}

#[tokio::test]
async fn up_on_what_is_up_changes_nothing_even_when_its_records_are_lost() {
    let database = database().await;
    let db = open(&database.url);
    let before = catalog(database.pool()).await;
    assert_eq!(schema::up(&db).await.unwrap(), []);
    assert_eq!(catalog(database.pool()).await, before);

    let fence = "SELECT nextval('rating_fence_seq')";
    for expected in ["1", "2"] {
        assert_eq!(row(database.pool(), fence).await, expected);
    }
    run(database.pool(), "DROP TABLE rater_migration; UPDATE rater_schema SET version = 7").await;
    assert!(!schema::up(&db).await.unwrap().is_empty());
    assert_eq!(catalog(database.pool()).await, before);
    assert_eq!(row(database.pool(), fence).await, "3", "a fence is never given twice");
    assert_eq!(row(database.pool(), "SELECT version FROM rater_schema").await, "7");
}

#[tokio::test]
async fn indexes_are_on_exactly_what_their_readers_ask_for() {
    let database = database().await;
    let sql = "SELECT indexdef FROM pg_indexes
        WHERE tablename IN ('billing_event', 'rated_usage') ORDER BY indexname";
    let expected = [
        "CREATE UNIQUE INDEX billing_event_pkey ON public.billing_event USING btree (request_id)",
        "CREATE INDEX billing_event_rating_instant_ix ON public.billing_event USING btree \
         (COALESCE(event_ts, created_at))",
        "CREATE INDEX rated_usage_auth_id_window_start_ix ON public.rated_usage USING btree \
         (auth_id, window_start)",
        "CREATE UNIQUE INDEX rated_usage_natural_key ON public.rated_usage USING btree \
         (auth_id, resource_id, model_id, window_start, price_class)",
        "CREATE INDEX rated_usage_page_ix ON public.rated_usage USING btree \
         (window_start, auth_id COLLATE \"C\", resource_id COLLATE \"C\", model_id COLLATE \"C\", price_class COLLATE \"C\")",
        "CREATE UNIQUE INDEX rated_usage_pkey ON public.rated_usage USING btree (id)",
        "CREATE INDEX rated_usage_window_start_ix ON public.rated_usage USING btree (window_start)",
    ];
    assert_eq!(rows(database.pool(), sql).await, expected);
}

#[tokio::test]
async fn r13_a_row_that_its_rates_do_not_explain_is_refused() {
    const CHECK_VIOLATION: &str = "23514";
    let database = database().await;
    let columns = [
        "billable_prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "applied_prompt_rate",
        "applied_cached_rate",
        "applied_completion_rate",
        "cost",
    ];
    let insert = |id: &str, values: [&str; 7]| {
        format!(
            "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, {})
             VALUES ('{id}', '{id}', 'r', 'm', '2026-01-01Z', {})",
            columns.join(", "),
            values.join(", ")
        )
    };
    // 100 x 0.2 + 20 x 0.05 + 10 x 0.6
    let good = ["100", "20", "10", "0.2", "0.05", "0.6", "27.00"];
    run(database.pool(), &insert("good", good)).await;
    run(database.pool(), &insert("free", ["1", "1", "1", "0", "0", "0", "0"])).await;
    run(database.pool(), &insert("finest", ["1", "0", "0", "0.000000000001", "0", "0", "0.000000000001"]))
        .await;
    let largest = "9999999999999999.999999999999";
    run(database.pool(), &insert("largest", ["1", "0", "0", largest, "0", "0", largest])).await;

    let other = |n: usize, value: &'static str| {
        let mut values = good;
        values[n] = value;
        values
    };
    let mut bad: Vec<[&str; 7]> = (0..7).map(|n| other(n, "NULL")).collect();
    bad.extend((0..6).map(|n| other(n, "7")));
    bad.extend([
        other(6, "27.000000000001"),
        other(6, "-27"),
        ["1", "1", "0", "-0.1", "0.2", "0", "0.1"],
        ["1", "0", "0", "0.0000000000001", "0", "0", "0.0000000000001"],
        ["1", "0", "0", "10000000000000000", "0", "0", "10000000000000000"],
        ["1", "0", "0", "'NaN'", "0", "0", "'NaN'"],
        ["1", "0", "0", "'Infinity'", "0", "0", "'Infinity'"],
        ["1", "0", "0", "'-Infinity'", "0", "0", "'-Infinity'"],
    ]);
    for values in bad {
        assert_eq!(refused(database.pool(), &insert("bad", values)).await, CHECK_VIOLATION, "{values:?}");
        let set: Vec<String> = columns.iter().zip(values).map(|(c, v)| format!("{c} = {v}")).collect();
        let update = format!("UPDATE rated_usage SET {} WHERE id = 'good'", set.join(", "));
        assert_eq!(refused(database.pool(), &update).await, CHECK_VIOLATION, "{values:?}");
    }
}

#[tokio::test]
async fn r8_leases_are_finite_whole_hours_that_do_not_overlap() {
    let database = database().await;
    let lease = |run: &str, during: &str| {
        format!("INSERT INTO rating_lease (run_id, during, expires_at) VALUES ('{run}', '{during}', now())")
    };
    run(database.pool(), &lease("a", "[2026-01-01 00:00Z, 2026-01-01 02:00Z)")).await;
    run(database.pool(), &lease("b", "[2026-01-01 02:00Z, 2026-01-01 03:00Z)")).await;
    assert_eq!(
        refused(database.pool(), &lease("c", "[2026-01-01 01:00Z, 2026-01-01 04:00Z)")).await,
        "23P01"
    );
    for during in [
        "empty",
        "[2026-02-01 00:00Z, 2026-02-01 01:00Z]",
        "(2026-02-01 00:00Z, 2026-02-01 01:00Z)",
        "[2026-02-01 00:00Z,)",
        "[2026-02-01 00:00Z, infinity)",
        "[2026-02-01 00:00Z, 2026-02-01 00:30Z)",
        "[2026-02-01 00:00:00.000001Z, 2026-02-01 01:00Z)",
    ] {
        assert_eq!(refused(database.pool(), &lease("c", during)).await, "23514", "{during}");
    }
    // Whatever the session's time zone: an hour of India's begins at half past.
    let mut connection = database.pool().acquire().await.unwrap();
    sqlx::raw_sql("SET timezone = 'Asia/Kolkata'").execute(&mut *connection).await.unwrap();
    let refused = sqlx::raw_sql(
        "INSERT INTO rating_lease (run_id, during, expires_at)
         VALUES ('d', '[2026-02-01 00:00, 2026-02-01 01:00)', now())",
    );
    refused.execute(&mut *connection).await.unwrap_err();
}

#[tokio::test]
async fn fences_start_above_the_highest_that_a_row_carries() {
    let (database, db) = with(super::RATED_USAGE).await;
    run(
        database.pool(),
        "ALTER TABLE rated_usage ADD fence bigint; UPDATE rated_usage SET fence = prompt_tokens",
    )
    .await;
    schema::up(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT nextval('rating_fence_seq')").await, "1001");
    schema::down(&db).await.unwrap();
    run(database.pool(), "UPDATE rated_usage SET fence = 5000 WHERE auth_id = 'auth-1'").await;
    schema::up(&db).await.unwrap();
    assert_eq!(row(database.pool(), "SELECT nextval('rating_fence_seq')").await, "5001");
}

#[tokio::test]
async fn down_takes_checks_away_and_leaves_rows_and_the_key() {
    let database = database().await;
    let insert = "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, cost)
        VALUES (md5(random()::text), 'a', 'r', 'm', '2026-01-01Z', 1)";
    assert_eq!(refused(database.pool(), insert).await, "23514");
    run(database.pool(), "INSERT INTO billing_event (request_id) VALUES ('req-1')").await;
    let db = open(&database.url);
    schema::down(&db).await.unwrap();
    run(database.pool(), insert).await;
    assert_eq!(refused(database.pool(), insert).await, "23505", "down opens no way to bill twice");
    schema::up(&db).await.unwrap();
    let counts = "SELECT (SELECT count(*) FROM rated_usage) + (SELECT count(*) FROM billing_event)";
    assert_eq!(row(database.pool(), counts).await, "2");
    let feed = "SELECT whole_story FROM change_feed";
    assert_eq!(row(database.pool(), feed).await, "false", "the feed begins with rows that it never told of");
}
