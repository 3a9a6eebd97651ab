//! R5, R6 and R7: the window is exactly the run's output, by differences, in one snapshot.

use rater::proto::Severity;

use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill, dearer, routine};

#[tokio::test]
async fn r05_a_run_makes_its_window_exactly_its_output_and_touches_nothing_outside() {
    let rig = Rig::with_events([
        event("before").at("2026-06-01T09:59:59.999999Z"),
        event("first").at("2026-06-01T10:00:00Z"),
        event("last").auth("auth-2").at("2026-06-01T10:59:59.999999Z"),
        event("after").at("2026-06-01T11:00:00Z"),
    ])
    .await;
    rig.rated(backfill(9, 12)).await;
    // A row that no event accounts for, of another price class.
    rig.sql(
        "INSERT INTO rated_usage SELECT md5('x'), 'x', resource_id, model_id, window_start, window_end, 'batch',
            prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
            applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code,
            pricebook_digest, run_id, NULL, rated_at
         FROM rated_usage WHERE auth_id = 'auth-2'",
    )
    .await;
    let outside = "(SELECT ctid, xmin FROM rated_usage WHERE extract(hour FROM window_start AT TIME ZONE 'UTC') <> 10) o";
    let before = rig.versions(outside).await;
    rig.sql("DELETE FROM billing_event WHERE request_id <> 'last'").await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.reconciled_deletions, result.unchanged_rollups), (2, 1));
    assert_eq!(rig.versions(outside).await, before);
    let left: Vec<_> =
        rig.rows().await.into_iter().map(|r| (r.window_start.to_rfc3339(), r.auth_id)).collect();
    let at = |hour: &str, auth: &str| (format!("2026-06-01T{hour}:00:00+00:00"), auth.to_string());
    assert_eq!(left, [at("09", "auth-1"), at("10", "auth-2"), at("11", "auth-1")]);
}

#[tokio::test]
async fn r05_a_changed_rollup_is_updated_in_place_and_keeps_its_id() {
    let rig = Rig::with_events([event("a")]).await;
    rig.rated(backfill(10, 11)).await;
    let first = rig.rows().await.remove(0);
    let id: String = rig.one("SELECT md5('6:auth-1|10:resource-1|10:acme/large|1780308000')").await;
    assert_eq!(first.id, id);
    rig.sql(
        "CREATE TABLE written (operation text);
         CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO written VALUES (TG_OP); RETURN NULL; END $$;
         CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON rated_usage
            FOR EACH ROW EXECUTE FUNCTION watch()",
    )
    .await;
    rig.insert([event("b")]).await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.updated_rollups, result.inserted_rollups, result.reconciled_deletions), (1, 0, 0));
    assert_eq!((result.previous_cost.as_str(), result.total_cost.as_str()), ("0.00045", "0.0009"));
    let written: Vec<String> = rig.one("SELECT array_agg(operation) FROM written").await;
    assert_eq!(written, ["UPDATE"]);
    let second = rig.rows().await.remove(0);
    assert_eq!((&second.id, second.event_count), (&first.id, 2));
    assert!(second.fence > first.fence && second.run_id != first.run_id && second.rated_at > first.rated_at);
}

#[tokio::test]
async fn r06_an_identical_rerun_writes_no_row_version_and_no_change_record() {
    let rig = Rig::with_events([
        event("a"),
        event("b").auth("auth-2").model("ft:x").base("acme/small"),
        event("c").model("acme/unknown"),
        event("d").tokens(1, 5, 0),
    ])
    .await;
    rig.rated(routine(10, 11)).await;
    let tables = ["rated_usage", "rated_usage_change", "change_batch", "rating_anomaly", "pricebook"];
    let mut before = Vec::new();
    for table in tables {
        before.push(rig.versions(table).await);
    }
    let rows = rig.rows().await;
    for request in [routine(10, 11), backfill(10, 11), routine(9, 12)] {
        let result = rig.rated(request).await;
        assert_eq!((result.rollups, result.unchanged_rollups), (2, 2));
        // What is wrong is told each time.
        assert_eq!((result.unpriced_events, result.severity()), (1, Severity::Error));
    }
    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(rig.versions(table).await, before, "{table}");
    }
    assert_eq!(rig.rows().await, rows);
}

#[tokio::test]
async fn r06_a_new_pricebook_with_the_same_rate_changes_nothing_and_the_digest_stays() {
    let rig = Rig::with_events([event("a")]).await;
    let first = rig.rated(backfill(10, 11)).await;
    let (rows, versions) = (rig.rows().await, rig.versions("rated_usage").await);
    rig.reload(&BOOK.replace("acme/small", "acme/tiny")).await;
    let again = rig.rated(backfill(10, 11)).await;
    assert_ne!(again.pricebook_digest, first.pricebook_digest);
    assert_eq!((again.unchanged_rollups, rig.versions("rated_usage").await), (1, versions));
    assert_eq!(rows[0].pricebook_digest, first.pricebook_digest);
    // More events at the same rate: the rate still comes from the first book.
    rig.insert([event("b")]).await;
    assert_eq!(rig.rated(backfill(10, 11)).await.updated_rollups, 1);
    assert_eq!(rig.rows().await[0].pricebook_digest, first.pricebook_digest);
    rig.reload(&dearer()).await;
    let dearer = rig.rated(backfill(10, 11)).await;
    assert_eq!(rig.rows().await[0].pricebook_digest, dearer.pricebook_digest);
}

#[tokio::test]
async fn r07_events_that_land_meanwhile_are_in_all_of_a_runs_numbers_or_in_none() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let pool = rig.pool().clone();
    let writer = tokio::spawn(async move {
        for n in 0..800 {
            let minute = format!("2026-06-01T{}:{:02}:00Z", 10 + n % 2, n % 60);
            let auth = format!("auth-{}", n % 7);
            let made = event(&n.to_string()).auth(&auth).at(&minute);
            let made = if n % 5 == 0 { made.model("acme/unknown") } else { made };
            crate::harness::insert(&pool, [made]).await;
        }
    });
    let mut runs = 0;
    loop {
        let last = writer.is_finished();
        // It holds that the change records lead to the rows.
        let result = rig.rated(routine(10, 12)).await;
        let seen: (i64, String, i64) = sqlx::query_as(
            "SELECT coalesce(sum(event_count), 0)::bigint, trim_scale(coalesce(sum(cost), 0))::text,
                (SELECT coalesce(sum(events), 0)::bigint FROM rating_anomaly) FROM rated_usage",
        )
        .fetch_one(rig.pool())
        .await
        .unwrap();
        let told = (result.rated_events, result.total_cost.clone(), result.unpriced_events);
        assert_eq!(seen, told);
        runs += 1;
        if last {
            assert_eq!(result.events, 800);
            break;
        }
    }
    assert!(runs > 2, "{runs} runs saw nothing land");
    writer.await.unwrap();
}
