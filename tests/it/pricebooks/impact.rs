//! ValidatePricebook against traffic: what it costs at each book, who loses a price, which
//! entries nobody needs; and nothing is written, whatever is held.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::domain::{pricebook, window};
use rater::grpc::client::Failure;
use rater::proto::*;
use rater::store::{Db, DbOptions};

use crate::harness::{self, Event, event};
use crate::rig::{BOOK, Rig, backfill, dearer, hour, timestamp};

/// Every table that a run writes.
const TABLES: [&str; 9] = [
    "billing_event",
    "rated_usage",
    "rating_lease",
    "rating_run",
    "rating_run_chunk",
    "pricebook",
    "rating_anomaly",
    "rated_usage_change",
    "change_batch",
];

fn against(candidate: &str, since: u32, until: u32) -> ValidatePricebookRequest {
    let (start, end) = (Some(timestamp(&hour(since))), Some(timestamp(&hour(until))));
    ValidatePricebookRequest { pricebook_yaml: candidate.into(), against: Some(Window { start, end }) }
}

async fn ask(rig: &Rig, request: ValidatePricebookRequest) -> Result<ValidatePricebookResponse, Failure> {
    Ok(rig.client().validate_pricebook(request).await?.into_inner())
}

/// The impact of a valid candidate on these hours, about which nothing else is said.
async fn impact(rig: &Rig, candidate: &str, since: u32, until: u32) -> TrafficImpact {
    let response = ask(rig, against(candidate, since, until)).await.unwrap();
    assert_eq!((response.valid, response.diagnostics), (true, vec![]));
    response.impact.unwrap()
}

fn at(id: &str, hour: u32) -> Event {
    event(id).at(&format!("2026-06-01T{hour:02}:30:00Z"))
}

/// Events of every kind, some outside of the hours 9 to 12.
fn mixed() -> Vec<Event> {
    vec![
        at("early", 8),
        at("a", 9),
        at("b", 10).auth("auth-2").tokens(1_000_001, 7, 3),
        at("clamped", 10).tokens(5, 9, 1),
        at("aborted", 11).model("acme/small").aborted(),
        at("named", 11).model("ft:named").base("acme/small"),
        at("tuned", 11).model("ft:x").base("acme/large"),
        at("two bases", 11).model("ft:two").base("acme/large"),
        at("of one", 11).model("ft:two").base("acme/small"),
        at("nobody's", 11).without_auth(),
        at("malformed", 11).tokens(-1, 0, 0),
        at("unpriced", 11).model("acme/unknown"),
        at("late", 12),
    ]
}

#[tokio::test]
async fn the_costs_are_what_a_run_with_each_book_then_bills() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert(mixed()).await;
    let said = impact(&rig, &dearer(), 9, 12).await;
    assert_eq!(rig.rated(backfill(9, 12)).await.total_cost, said.loaded_cost);
    // What is held now has no say in it.
    assert_eq!(impact(&rig, &dearer(), 9, 12).await, said);
    rig.reload(&dearer()).await;
    assert_eq!(rig.rated(backfill(9, 12)).await.total_cost, said.candidate_cost);
    assert!(said.loaded_cost != said.candidate_cost && said.loaded_cost != "0");
    let same = impact(&rig, &dearer(), 9, 12).await;
    assert_eq!((&same.loaded_cost, &same.candidate_cost), (&said.candidate_cost, &said.candidate_cost));
}

#[tokio::test]
async fn the_window_need_not_be_closed_nor_hold_anything() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert([Event { event_ts: None, ..event("now") }]).await;
    let now = rig.one::<i64>("SELECT extract(epoch FROM date_trunc('hour', now(), 'UTC'))::bigint").await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let window = Window { start: at(now - 3_600), end: at(now + 7_200) };
    let request = ValidatePricebookRequest { against: Some(window), ..against(&dearer(), 0, 0) };
    let open = ask(&rig, request).await.unwrap().impact.unwrap();
    assert_eq!((open.loaded_cost.as_str(), open.candidate_cost.as_str()), ("0.00045", "0.0009"));
    let empty = impact(&rig, BOOK, 9, 12).await;
    assert_eq!((empty.loaded_cost.as_str(), empty.candidate_cost.as_str()), ("0", "0"));
    assert_eq!(empty.newly_unpriced_models, Vec::<String>::new());
    assert_eq!(empty.unused_models, ["acme/large", "acme/small", "ft:named"]);
}

#[tokio::test]
async fn models_that_would_become_unpriced_are_named() {
    let loaded =
        format!("{BOOK}  \"ft:own\": {{rate: {{prompt: \"1\", cached: \"1\", completion: \"1\"}}}}\n");
    let rig = Rig::start(&loaded, &["--chunk-hours", "1"]).await;
    rig.insert([
        at("removed", 9).model("ft:own"),
        at("dated, before", 9),
        at("dated, after", 11),
        at("its named fine-tune", 9).model("ft:named"),
        at("its fine-tune", 10).model("ft:x").base("acme/large"),
        at("its later fine-tune", 11).model("ft:y").base("acme/large"),
        at("kept", 10).model("acme/small"),
        at("unpriced at both", 10).model("acme/unknown"),
        at("priced by it alone", 10).model("acme/new"),
        at("outside", 8).model("ft:z").base("acme/large"),
    ])
    .await;
    let dated = r#"  "acme/large": [{effective_from: 2026-06-01T11:00:00Z, prompt:"#;
    let candidate = BOOK.replace(r#"  "acme/large": {prompt:"#, dated).replace("0.000015\"}", "0.000015\"}]");
    let rate = r#"{prompt: "1", cached: "1", completion: "1"}"#;
    let candidate = candidate.replace("base_models:\n", &format!("base_models:\n  \"acme/new\": {rate}\n"));
    let said = impact(&rig, &candidate, 9, 12).await;
    assert_eq!(said.newly_unpriced_models, ["acme/large", "ft:named", "ft:own", "ft:x"]);
    assert_eq!(said.unused_models, Vec::<String>::new());
    rig.reload(&candidate).await;
    assert_eq!(rig.rated(backfill(9, 12)).await.total_cost, said.candidate_cost);
    // From its date on nothing is missing.
    let later = impact(&rig, &candidate, 11, 12).await;
    assert_eq!((later.newly_unpriced_models.len(), later.loaded_cost), (0, later.candidate_cost));
}

#[tokio::test]
async fn entries_without_traffic_are_named_and_a_base_is_used_by_its_fine_tunes() {
    let rate = r#"{prompt: "1", cached: "1", completion: "1"}"#;
    let candidate = format!(
        "version: 1\nbase_models:\n  own: {rate}\n  of named: {rate}\n  of event: {rate}\n  of unused: {rate}\n  \
         of own: {rate}\n  \
         soon: [{{effective_from: 2026-06-01T12:00:00Z, prompt: \"1\", cached: \"1\", completion: \"1\"}}]\n  \
         since: [{{effective_from: 2026-06-01T11:00:00Z, prompt: \"1\", cached: \"1\", completion: \"1\"}}]\n\
         fine_tunes:\n  \"ft:named\": {{derived_from: of named}}\n  \"ft:unused\": {{derived_from: of unused}}\n  \
         \"ft:own\": {{rate: {rate}}}\n"
    );
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert([
        at("a", 9).model("own"),
        at("b", 10).model("ft:named"),
        at("c", 11).model("ft:x").base("of event"),
        // Its own rate is what it is billed at; that of the base is not needed.
        at("d", 11).model("ft:own").base("of own"),
        at("e", 12).model("ft:unused"),
        at("f", 8).model("since"),
    ])
    .await;
    let said = impact(&rig, &candidate, 9, 12).await;
    assert_eq!(said.unused_models, ["ft:unused", "of own", "of unused", "since"]);
    let said = impact(&rig, &candidate, 9, 13).await;
    assert_eq!(said.unused_models, ["of own", "since", "soon"]);
}

#[tokio::test]
async fn nothing_is_written_whatever_is_held() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    rig.insert(mixed()).await;
    let expected = impact(&rig, &dearer(), 8, 13).await;
    rig.rated(backfill(9, 12)).await;
    // Of another currency, of a model that is gone, and one that was written by a later run.
    rig.sql("UPDATE rated_usage SET currency_code = 'EUR' WHERE model_id = 'acme/small'").await;
    rig.sql("UPDATE rated_usage SET model_id = 'acme/gone' WHERE window_start = '2026-06-01T09:00Z'").await;
    rig.sql("UPDATE rated_usage SET fence = 1000000 WHERE window_start = '2026-06-01T10:00Z'").await;
    rig.sql("DELETE FROM billing_event WHERE request_id = 'unpriced'").await;
    let refused = rig.refused(backfill(8, 13)).await;
    assert_eq!(refused.reason, "CURRENCY_MISMATCH", "a run still refuses them");
    let everything = async || {
        let mut versions = vec![];
        for table in TABLES {
            versions.push((table, rig.versions(table).await));
        }
        versions
    };
    let before = everything().await;
    assert_eq!(impact(&rig, &dearer(), 8, 13).await, expected);
    assert_eq!(everything().await, before);
    assert_eq!((rig.count("rating_lease").await, rig.count("pricebook").await), (0, 1));
}

#[tokio::test]
async fn costs_in_another_currency_are_given_in_their_own_with_a_warning() {
    let rig = Rig::with_events([at("a", 9)]).await;
    let euros = dearer().replace("version: 1\n", "version: 1\ncurrency: EUR\n");
    let response = ask(&rig, against(&euros, 9, 10)).await.unwrap();
    let said: Vec<_> = response.diagnostics.iter().map(|d| (d.code.as_str(), d.severity())).collect();
    assert_eq!((response.valid, said), (true, vec![("currency_differs", Severity::Warning)]));
    let impact = response.impact.unwrap();
    assert_eq!((impact.loaded_cost.as_str(), impact.candidate_cost.as_str()), ("0.00045", "0.0009"));
    let without = ValidatePricebookRequest { against: None, ..against(&euros, 9, 10) };
    let response = ask(&rig, without).await.unwrap();
    assert_eq!((response.diagnostics, response.impact), (vec![], None));
}

#[tokio::test]
async fn a_window_that_cannot_be_is_refused_by_the_name_of_its_field() {
    let rig = Rig::start(BOOK, &[]).await;
    let (nine, ten) = (Some(timestamp(&hour(9))), Some(timestamp(&hour(10))));
    let half = Some(timestamp("2026-06-01T09:30:00Z"));
    let nano = Some(timestamp("2026-06-01T10:00:00.000000001Z"));
    let past_9999 = Some(prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 });
    for (start, end, wrong) in [
        (None, None, vec!["against.start MISSING", "against.end MISSING"]),
        (nine, None, vec!["against.end MISSING"]),
        (half, nano, vec!["against.start OFF_THE_HOUR", "against.end OFF_THE_HOUR"]),
        (nine, nine, vec!["against.end EMPTY"]),
        (ten, nine, vec!["against.end INVERTED"]),
        (nine, past_9999, vec!["against.end OUT_OF_RANGE"]),
        (past_9999, None, vec!["against.start OUT_OF_RANGE", "against.end MISSING"]),
    ] {
        let window = Some(Window { start, end });
        for candidate in [BOOK, "not a pricebook"] {
            let request = ValidatePricebookRequest { pricebook_yaml: candidate.into(), against: window };
            let failure = ask(&rig, request).await.expect_err("refused");
            let named = failure.violations.iter();
            let named: Vec<_> =
                named.map(|(field, what)| format!("{field} {}", what.split(':').next().unwrap())).collect();
            assert_eq!(
                (failure.code, named),
                ("INVALID_ARGUMENT", wrong.iter().map(|w| w.to_string()).collect())
            );
        }
    }
}

#[tokio::test]
async fn an_invalid_candidate_gets_its_diagnostics_and_no_look_at_the_traffic() {
    let rig = Rig::with_events([at("a", 9)]).await;
    let mut hold = rig.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE billing_event IN ACCESS EXCLUSIVE MODE").execute(&mut *hold).await.unwrap();
    let mut request = tonic::Request::new(against("version: 2\n", 9, 10));
    request.set_timeout(Duration::from_secs(10));
    let response = rig.client().validate_pricebook(request).await.unwrap().into_inner();
    assert!(!response.valid && response.impact.is_none() && !response.diagnostics.is_empty());
    hold.rollback().await.unwrap();
}

/// Whether nobody looks at traffic any more: who did would wait for this lock.
async fn assert_nobody_goes_on(rig: &Rig) {
    let hold = rig.hold_writes().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.until_blocked(0).await;
    hold.rollback().await.unwrap();
}

/// Three hundred thousand hours, an hour a chunk.
fn endless() -> ValidatePricebookRequest {
    let window = Window { start: Some(timestamp("1990-01-01T00:00:00Z")), end: Some(timestamp(&hour(12))) };
    ValidatePricebookRequest { against: Some(window), ..against(BOOK, 0, 0) }
}

#[tokio::test]
async fn a_deadline_is_answered_before_it_passes_and_nothing_goes_on() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let hold = rig.hold_writes().await;
    let mut request = tonic::Request::new(endless());
    request.set_timeout(Duration::from_secs(2));
    let failure = Failure::from(rig.client().validate_pricebook(request).await.expect_err("too slow"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        ("DEADLINE_EXCEEDED", "DEADLINE_PASSED"),
        "{failure:?}"
    );
    hold.rollback().await.unwrap();
    assert_nobody_goes_on(&rig).await;
}

#[tokio::test]
async fn it_ends_when_its_caller_goes_away() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.validate_pricebook(endless()).await });
    rig.until_blocked(1).await;
    call.abort();
    drop(call.await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    hold.rollback().await.unwrap();
    assert_nobody_goes_on(&rig).await;
}

#[tokio::test]
async fn a_service_that_is_stopped_ends_it_after_the_chunk_in_hand() {
    let mut rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let hold = rig.hold_writes().await;
    let mut client = rig.client();
    let call = tokio::spawn(async move { client.validate_pricebook(endless()).await });
    rig.until_blocked(1).await;
    rig.service.signal(Signal::SIGTERM);
    rig.service.wait_for_log("stopping: no new calls, what is in flight ends", Duration::from_secs(10)).await;
    hold.rollback().await.unwrap();
    let failure = Failure::from(call.await.unwrap().expect_err("stopped"));
    assert_eq!((failure.code, failure.reason.as_str()), ("UNAVAILABLE", "SHUTTING_DOWN"), "{failure:?}");
    assert_eq!(rig.service.wait(Duration::from_secs(20)).await.code(), Some(0));
}

#[tokio::test]
async fn both_books_price_the_same_events_while_more_arrive() {
    let database = harness::database().await;
    let acquire_timeout = Duration::from_secs(10);
    let db = Db::new(&DbOptions { url: database.url.clone(), max_connections: 1, acquire_timeout }).unwrap();
    let book = pricebook::parse(BOOK).book.unwrap();
    let (start, end) = (hour(10).parse().unwrap(), hour(11).parse().unwrap());
    let pool = database.pool().clone();
    let arrive = tokio::spawn(async move {
        for n in 0.. {
            harness::insert(&pool, [event(&format!("e{n}"))]).await;
        }
    });
    let mut grown = 0;
    for _ in 0..30 {
        let window = window::Window { start, end };
        let [one, other] = db.traffic(window, [&book, &book], Duration::from_secs(60)).await.unwrap();
        assert_eq!(one, other);
        grown = one.models.first().map_or(0, |model| model.events);
    }
    arrive.abort();
    assert!(grown > 1, "events arrived meanwhile");
}
