//! R12 and R13: every change is recorded, in the order of commits; every row explains itself.

use std::collections::BTreeSet;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, routine};

#[tokio::test]
async fn r12_each_insert_update_and_delete_is_one_record_of_the_same_transaction() {
    let rig = Rig::with_events([event("a"), event("b").model("acme/small"), event("c").auth("stays")]).await;
    let same =
        "(SELECT c.xmin FROM rated_usage_change c JOIN rated_usage u ON u.xmin = c.xmin AND u.id = c.id) s";
    rig.rated(backfill(10, 11)).await;
    assert_eq!(rig.count(same).await, 3);
    rig.insert([event("d")]).await;
    rig.sql("DELETE FROM billing_event WHERE request_id = 'b'").await;
    rig.rated(routine(10, 11)).await;
    let changes = rig.changes().await;
    let told: Vec<_> =
        changes.iter().map(|c| (c.operation.as_str(), c.model_id.as_str(), c.before, c.after)).collect();
    assert_eq!(
        told,
        [
            ("insert", "acme/large", 0, 1),
            ("insert", "acme/small", 0, 1),
            ("insert", "acme/large", 0, 1),
            ("update", "acme/large", 1, 2),
            ("delete", "acme/small", 1, 0),
        ]
    );
    let money: Vec<_> =
        changes[3..].iter().map(|c| (c.before_cost.as_str(), c.after_cost.as_str())).collect();
    assert_eq!(money, [("0.00045", "0.0009"), ("0.000026", "")]);
    let batches: Vec<_> = changes.iter().map(|c| (c.position, c.batch)).collect();
    assert!(batches[0].0 < batches[3].0);
    assert_eq!(batches.iter().map(|b| b.1).collect::<Vec<_>>(), [3, 3, 3, 2, 2]);
    // The place in the feed is of that transaction, too.
    let apart =
        rig.count("rated_usage_change c JOIN change_batch b USING (batch_id) WHERE b.xmin <> c.xmin").await;
    assert_eq!(apart, 0);
}

#[tokio::test]
async fn r12_a_run_that_fails_leaves_no_change_record() {
    let rig = Rig::with_events([event("a")]).await;
    rig.sql(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER no BEFORE INSERT ON change_batch FOR EACH ROW EXECUTE FUNCTION no()",
    )
    .await;
    let failure = rig.refused(backfill(10, 11)).await;
    assert_eq!(failure.code, "INTERNAL");
    assert!(!failure.message.contains("no\""), "{failure}");
    let left = (rig.count("rated_usage").await, rig.count("rated_usage_change").await);
    assert_eq!(left, (0, 0));
    assert_eq!(rig.count("rating_lease").await, 0);
}

#[tokio::test]
async fn r12_a_reader_that_follows_positions_sees_every_batch_once_whatever_the_writers_do() {
    let rig = Rig::start(BOOK, &[]).await;
    // Commits take their time, each its own.
    rig.sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(random() * 0.05); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON change_batch DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .await;
    let pool = rig.pool().clone();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let reader = tokio::spawn(async move {
        let (mut last, mut seen) = (0, Vec::new());
        loop {
            let over = *stopped.borrow_and_update();
            let sql = "SELECT position FROM change_batch WHERE position > $1 ORDER BY position";
            let new: Vec<i64> = sqlx::query_scalar(sql).bind(last).fetch_all(&pool).await.unwrap();
            last = new.last().copied().unwrap_or(last);
            seen.extend(new);
            if over {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    for round in 0..4 {
        let hours = 8..14;
        rig.insert(
            hours.clone().map(|h| event(&format!("{round}-{h}")).at(&format!("2026-06-01T{h:02}:15:00Z"))),
        )
        .await;
        let runs = hours.map(|h| {
            let mut client = rig.client();
            tokio::spawn(async move { client.rate_window(backfill(h, h + 1)).await })
        });
        for run in runs.collect::<Vec<_>>() {
            run.await.unwrap().unwrap();
        }
    }
    stop.send(true).unwrap();
    let seen = reader.await.unwrap();
    let there: Vec<i64> = rig.one("SELECT array_agg(position ORDER BY position) FROM change_batch").await;
    assert_eq!(there.len(), 24);
    assert_eq!((seen.iter().copied().collect::<BTreeSet<_>>().len(), &seen), (24, &there));
    rig.assert_explained().await;
}

#[tokio::test]
async fn r13_the_table_refuses_a_row_that_its_rates_do_not_explain() {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(backfill(10, 11)).await;
    for wrong in [
        "cost = cost + 0.000000000001",
        "prompt_tokens = 1, billable_prompt_tokens = 1",
        "completion_tokens = 11",
        "applied_prompt_rate = 0.000004",
        "cost = NULL",
        "applied_cached_rate = NULL",
        "billable_prompt_tokens = NULL",
    ] {
        let sql = format!("UPDATE rated_usage SET {wrong}");
        let error = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(rig.pool()).await.expect_err(wrong);
        let constraint =
            error.as_database_error().and_then(|e| e.constraint()).unwrap_or_default().to_string();
        assert_eq!(constraint, "rated_usage_explains_itself", "{wrong}");
    }
}

#[tokio::test]
async fn r13_another_currency_anywhere_in_the_window_refuses_all_of_it() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert((9..12).map(|h| event(&h.to_string()).at(&format!("2026-06-01T{h:02}:15:00Z")))).await;
    rig.rated(backfill(9, 12)).await;
    // In the oldest hour, which is the last chunk.
    rig.sql("UPDATE rated_usage SET currency_code = 'EUR' WHERE window_start = '2026-06-01T09:00Z'").await;
    rig.insert([event("more").at("2026-06-01T11:30:00Z")]).await;
    let versions = rig.versions("rated_usage").await;
    for request in [routine(9, 12), backfill(9, 12)] {
        let failure = rig.refused(request).await;
        assert_eq!((failure.code, failure.reason.as_str()), ("FAILED_PRECONDITION", "CURRENCY_MISMATCH"));
        assert_eq!(
            (failure.metadata["found"].as_str(), failure.metadata["pricebook"].as_str()),
            ("EUR", "USD")
        );
    }
    assert_eq!((rig.versions("rated_usage").await, rig.count("rating_run").await), (versions, 1));
    // The other hours are no hostages.
    let others = rig.rate(routine(10, 12)).await.unwrap().result.unwrap();
    assert_eq!(others.updated_rollups, 1);
}
