//! R3 and R4: what can't be billed with certainty is withheld, counted once, and never at 0.

use rater::proto::{FindingCode, Severity};

use crate::harness::{empty_database, event};
use crate::rig::{BOOK, Rig, backfill, findings, routine};

#[tokio::test]
async fn r03_each_event_is_counted_under_the_first_kind_that_applies() {
    let tuned = |id: &str| event(id).model("ft:x");
    let rig = Rig::with_events([
        event("u1").without_auth(),
        event("u2").auth(""),
        event("u3").without_resource(),
        event("u4").resource(""),
        event("u5").without_model(),
        event("u6").model(""),
        event("u7").without_auth().tokens(-1, 0, 0),
        event("u8").without_auth().model("acme/unknown"),
        event("m1").tokens(-1, 0, 0),
        event("m2").tokens(1, i32::MIN, 0),
        event("m3").tokens(1, 0, -1),
        event("m4").model("acme/unknown").tokens(0, 0, -1),
        event("m5").model("ft:two").base("acme/large").tokens(-1, 0, 0),
        event("p1").model("acme/unknown"),
        event("p2").model("ACME/LARGE"),
        event("p3").model("acme/large "),
        event("p4").model("acme/lar"),
        tuned("p5"),
        tuned("p6").base("acme/unknown"),
        tuned("p7").base("ft:named"),
        tuned("p8").base(""),
        event("p9").model("custom").base("acme/large"),
        event("a1").model("ft:two").base("acme/large"),
        event("a2").model("ft:two").base("acme/small"),
        event("ok"),
    ])
    .await;
    let result = rig.rated(routine(10, 11)).await;
    let counts = (
        result.unattributable_events,
        result.malformed_events,
        result.unpriced_events,
        result.ambiguous_base_events,
        result.rated_events,
    );
    assert_eq!(counts, (8, 5, 9, 2, 1));
    let rows = rig.rows().await;
    assert_eq!((rows.len(), rows[0].event_count, rows[0].cost.as_str()), (1, 1, "0.00045"));
    let kinds: String = rig
        .one(
            "SELECT string_agg(kind || ' ' || n, ', ' ORDER BY kind) FROM
            (SELECT kind, sum(events) AS n FROM rating_anomaly GROUP BY kind) k",
        )
        .await;
    assert_eq!(kinds, "ambiguous_base 2, malformed 5, unattributable 8, unpriced 9");
    for (code, severity, count) in findings(&result) {
        assert_eq!(severity, Severity::Error, "{code:?}");
        assert!(count > 0);
    }
    assert_eq!(result.findings.len(), 4);
    let sample: String = rig.one("SELECT string_agg(sample_request_id, ' ') FROM rating_anomaly").await;
    assert!(sample.split(' ').all(|id| id != "ok"), "{sample}");
}

#[tokio::test]
async fn r03_a_fine_tune_with_two_bases_in_one_rollup_is_withheld_whole() {
    let tuned = |id: &str, base: &str| event(id).model("ft:x").base(base);
    let rig = Rig::with_events([
        tuned("a", "acme/large"),
        tuned("b", "acme/small"),
        tuned("other identity", "acme/small").auth("auth-2"),
        tuned("other hour", "acme/large").at("2026-06-01T11:00:00Z"),
        // Named by the pricebook: its events' bases decide nothing.
        event("c").model("ft:named").base("acme/large"),
        event("d").model("ft:named").base("acme/small"),
    ])
    .await;
    let result = rig.rated(routine(10, 12)).await;
    assert_eq!((result.ambiguous_base_events, result.rated_events, result.rollups), (2, 4, 3));
    assert_eq!(findings(&result), [(FindingCode::AmbiguousBaseEvents, Severity::Error, 2)]);
    assert_eq!(rig.anomalies().await, ["ambiguous_base auth-1 resource-1 ft:x 2"]);
    let bases: Vec<String> = rig.one("SELECT base_models FROM rating_anomaly").await;
    assert_eq!(bases, ["acme/large", "acme/small"]);
    let mut costs = rig.costs().await;
    costs.sort();
    // Half as much again as their bases: named large (twice), small, and large an hour later.
    let expected = [("10", "0.000039"), ("10", "0.00135"), ("11", "0.000675")];
    assert_eq!(costs, expected.map(|(hour, cost)| (hour.to_string(), cost.to_string())));
}

#[tokio::test]
async fn r03_a_billed_rollup_that_becomes_ambiguous_is_taken_back_loudly() {
    let rig = Rig::with_events([event("a").model("ft:x").base("acme/large")]).await;
    rig.rated(routine(10, 11)).await;
    rig.insert([event("b").model("ft:x").base("acme/small")]).await;
    let result = rig.rated(routine(10, 11)).await;
    assert_eq!(
        findings(&result),
        [
            (FindingCode::ReconciledDeletions, Severity::Error, 1),
            (FindingCode::AmbiguousBaseEvents, Severity::Error, 2)
        ]
    );
    assert_eq!((rig.rows().await, result.total_cost.as_str()), (vec![], "0"));
}

#[tokio::test]
async fn r03_an_unpriced_event_beside_a_priced_base_does_not_make_it_ambiguous() {
    let tuned = |id: &str, base: &str| event(id).model("ft:x").base(base);
    let rig = Rig::with_events([tuned("a", "acme/large"), tuned("b", "acme/unknown")]).await;
    let result = rig.rated(backfill(10, 11)).await;
    let counts = (result.rated_events, result.unpriced_events, result.ambiguous_base_events);
    assert_eq!(counts, (1, 1, 0));
    assert_eq!(rig.rows().await[0].event_count, 1);
}

#[tokio::test]
async fn r03_an_anomaly_that_is_mended_is_gone_and_its_events_are_billed() {
    let rig = Rig::with_events([event("a").model("acme/new")]).await;
    assert_eq!(rig.rated(backfill(10, 11)).await.unpriced_events, 1);
    assert_eq!(rig.anomalies().await, ["unpriced auth-1 resource-1 acme/new 1"]);
    rig.reload(&BOOK.replace("acme/small", "acme/new")).await;
    assert_eq!(rig.rated(routine(10, 11)).await.severity(), Severity::Info);
    assert_eq!((rig.anomalies().await.len(), rig.rows().await.len()), (0, 1));
}

#[tokio::test]
async fn r03_a_missing_token_count_of_another_writer_is_malformed() {
    let db = empty_database().await;
    sqlx::raw_sql(
        "CREATE TABLE billing_event (request_id varchar(255) PRIMARY KEY, auth_id varchar(64),
            resource_id varchar(64), model varchar(255), prompt_tokens integer, cached_tokens integer,
            completion_tokens integer, event_ts timestamptz);
         INSERT INTO billing_event VALUES
            ('whole', 'a', 'r', 'acme/large', 100, 0, 10, '2026-06-01T10:15:00Z'),
            ('half', 'a', 'r', 'acme/large', 100, NULL, 10, '2026-06-01T10:15:00Z'),
            ('none', 'b', 'r', 'acme/large', NULL, NULL, NULL, '2026-06-01T10:15:00Z')",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let rig = Rig::on(db, BOOK, &["--migrate"]).await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.malformed_events, result.rated_events), (2, 1));
    assert_eq!(rig.costs().await, [("10".to_string(), "0.00045".to_string())]);
}

#[tokio::test]
async fn r04_conservation_holds_in_every_chunk_of_a_mixed_window() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let mut random = crate::events::Random(7);
    let mut expected = 0;
    let events: Vec<_> = (0..400)
        .map(|n| {
            let hour = 10 + random.below(3);
            let mut made =
                event(&n.to_string()).at(&format!("2026-06-01T{hour}:{:02}:00Z", random.below(60)));
            made = match random.below(4) {
                0 => made.model("acme/unknown"),
                1 => made.model("ft:x").base(["acme/large", "acme/small"][random.below(2) as usize]),
                _ => made,
            };
            made.tokens(random.below(50) as i32 - 1, random.below(20) as i32 - 1, random.below(20) as i32 - 1)
                .auth(["", "a", "b", "c"][random.below(4) as usize])
        })
        .inspect(|_| expected += 1)
        .collect();
    rig.insert(events).await;
    let result = rig.rated(backfill(10, 13)).await;
    assert_eq!(result.events, expected);
    let chunks: i64 = rig
        .one(
            "SELECT count(*) FROM rating_run_chunk WHERE events = rated_events + unpriced_events
            + unattributable_events + ambiguous_base_events + malformed_events",
        )
        .await;
    assert_eq!(chunks, 3);
    let rated: i64 = rig.one("SELECT sum(event_count)::bigint FROM rated_usage").await;
    let withheld: i64 = rig.one("SELECT sum(events)::bigint FROM rating_anomaly").await;
    assert_eq!((rated, rated + withheld), (result.rated_events, expected));
}
