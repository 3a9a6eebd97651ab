//! The first copy, and another one where the feed no longer has what comes next.

use rater::service::schema;
use rater::store::{Db, DbOptions};

use super::*;
use crate::harness::event;
use crate::rig::{backfill, dearer, hour};

async fn hours(rig: &Rig) {
    rig.insert((0..60).map(|n| {
        let (auth, time) = (format!("auth-{}", n % 7), hour(n % 10));
        event(&format!("r{n}")).auth(&auth).resource(&format!("res-{}", n % 3)).at(&time)
    }))
    .await;
    rig.rated(backfill(0, 10)).await;
}

#[tokio::test]
async fn a_first_copy_that_is_left_half_way_goes_on_at_its_page_and_bills_nothing_before_it_is_whole() {
    let (rig, ledger) = begun().await;
    hours(&rig).await;
    // Nothing is written after the third page: whoever tries is refused for good.
    ledger.did("", &["status"]).await;
    ledger
        .sql(
            "CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF (SELECT count(*) FROM rollup_copy) >= 21 THEN RAISE 'enough'; END IF; RETURN NULL; END $$;
             CREATE TRIGGER full_ AFTER INSERT ON rollup_copy FOR EACH STATEMENT EXECUTE FUNCTION full()",
        )
        .await;
    let follow = ["follow", "--once", "--page-size", "7"];
    let refused = ledger.refused(&rig.service.url(), &follow).await;
    assert!(refused.contains("enough"), "{refused}");
    assert_eq!((ledger.number("SELECT count(*) FROM rollup_copy").await, ledger.lines().await), (14, 0));
    assert!(ledger.did("", &["status"]).await.starts_with("copying (first copy 1)"));

    // Rows that were read already change, and vanish; others come before the place that it is at.
    rig.reload(&dearer()).await;
    rig.sql("DELETE FROM billing_event WHERE request_id IN ('r0', 'r10', 'r1')").await;
    rig.insert([event("early").auth("aaa").at(&hour(0))]).await;
    rig.rated(backfill(0, 10)).await;
    ledger.sql("DROP TRIGGER full_ ON rollup_copy").await;
    ledger.did(&rig.service.url(), &follow).await;
    let wrong = "SELECT count(*) FROM ledger_line WHERE kind <> 'usage' OR amount <= 0 OR line_id NOT LIKE 'copy-1-%'";
    assert_eq!(ledger.number(wrong).await, 0, "billed before it was whole");
    assert_eq!(ledger.lines().await, rig.count("rated_usage").await);
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn a_page_token_that_is_refused_begins_the_copy_again() {
    let (rig, ledger) = begun().await;
    hours(&rig).await;
    ledger.did("", &["status"]).await;
    // Some of it was read, and has vanished since.
    ledger
        .sql(
            "INSERT INTO consumer (page_token) VALUES ('of another version');
             INSERT INTO rollup_copy VALUES ('gone', 'r', 'm', now(), 'standard', 'USD', 1, 1, 1, 1, 1)",
        )
        .await;
    ledger.catch_up(&rig).await;
    assert!(ledger.did("", &["status"]).await.starts_with("following (first copy 2)"));
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn after_a_restore_a_person_says_that_a_new_copy_is_right_and_what_vanished_is_taken_back() {
    let (rig, ledger) = begun().await;
    hours(&rig).await;
    ledger.catch_up(&rig).await;
    let lines = ledger.lines().await;
    // The other past of a restored database: rows are gone, there, and different without a record.
    rig.sql("DELETE FROM billing_event WHERE request_id IN ('r0', 'r21', 'r42')").await;
    rig.reload(&dearer()).await;
    rig.rated(backfill(0, 3)).await;
    rig.insert([event("early").auth("aaa").at(&hour(0))]).await;
    rig.rated(backfill(0, 2)).await;
    rig.sql("UPDATE change_feed SET feed_id = gen_random_uuid()").await;

    let refused = ledger.refused(&rig.service.url(), &["follow", "--once"]).await;
    assert!(refused.contains("run `invoice_ledger copy-again`"), "{refused}");
    assert_eq!(ledger.lines().await, lines, "nothing is billed from what may be another database");
    ledger.did("", &["copy-again"]).await;
    assert!(ledger.did("", &["status"]).await.contains("stands as it was"));
    ledger.catch_up(&rig).await;
    ledger.assert_equals(&rig).await;
    let gone =
        "SELECT count(*) FROM ledger_line WHERE line_id LIKE 'copy-2-%' AND amount < 0 AND event_count < 0";
    assert_eq!(ledger.number(gone).await, 3);

    // And as if nothing had been.
    rig.insert([event("late").auth("acme")]).await;
    rig.rated(backfill(10, 11)).await;
    ledger.catch_up(&rig).await;
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn where_the_feed_has_retired_what_comes_next_it_takes_a_new_copy_by_itself() {
    let (rig, ledger) = begun().await;
    hours(&rig).await;
    ledger.catch_up(&rig).await;
    rig.sql("DELETE FROM billing_event WHERE auth_id = 'auth-3'").await;
    rig.reload(&dearer()).await;
    rig.rated(backfill(0, 5)).await;
    rig.rated(backfill(5, 10)).await;
    rig.sql("UPDATE change_feed SET retired_through = (SELECT max(position) FROM change_batch)").await;
    ledger.catch_up(&rig).await;
    assert!(ledger.did("", &["status"]).await.starts_with("following (first copy 2)"));
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn rows_that_were_adopted_with_empty_and_repeated_ids_are_each_billed() {
    let db = empty_database().await;
    let adopted = "CREATE TABLE rated_usage (id varchar(200) NOT NULL, auth_id varchar(64) NOT NULL,
            resource_id varchar(64) NOT NULL, model_id varchar(255) NOT NULL, window_start timestamptz NOT NULL,
            prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint, cost numeric(20, 9));
        INSERT INTO rated_usage SELECT id, 'auth-' || n % 3, 'res', 'm',
            timestamptz '2026-06-01T00:00Z' + n / 3 * interval '0.3 seconds', n, 0, 0, n
        FROM unnest(ARRAY['', '', 'twice', 'twice', repeat('long', 50), repeat('long', 50)])
            WITH ORDINALITY AS ids (id, n)";
    sqlx::raw_sql(adopted).execute(db.pool()).await.unwrap();
    let options =
        DbOptions { url: db.url.clone(), max_connections: 2, acquire_timeout: Duration::from_secs(10) };
    schema::up(&Db::new(&options).unwrap()).await.unwrap();
    let (rig, ledger) = (Rig::on(db, BOOK, &[]).await, Consumer::new().await);
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, 6);
    ledger.assert_equals(&rig).await;

    // What was read once changes, and another copy is as good as the first.
    rig.insert([event("r0").auth("auth-1").at(&hour(0))]).await;
    rig.rated(backfill(0, 1)).await;
    ledger.catch_up(&rig).await;
    ledger.assert_equals(&rig).await;
    rig.sql("UPDATE rated_usage SET id = 'all'; UPDATE change_feed SET feed_id = gen_random_uuid()").await;
    ledger.did("", &["copy-again"]).await;
    let lines = ledger.lines().await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, lines, "an id is nothing that is billed");
    ledger.assert_equals(&rig).await;
}
