//! A window of many chunks gives what one chunk gives.

use rater::proto::RatingResult;

use crate::events::Random;
use crate::harness::{Event, Rated, event};
use crate::rig::{BOOK, Rig, backfill, routine};

fn events() -> Vec<Event> {
    let mut random = Random(42);
    let mut pick = |values: &[&'static str]| values[random.below(values.len() as u64) as usize];
    let made = (0..300).map(|n| {
        let minute =
            format!("2026-06-01T{}:{}:00Z", pick(&["08", "09", "10", "11", "13"]), pick(&["00", "30", "59"]));
        let model = pick(&["acme/large", "acme/small", "ft:named", "ft:x", "acme/unknown"]);
        let base = pick(&["acme/large", "acme/large", "acme/small"]);
        event(&n.to_string()).auth(pick(&["a", "b", ""])).model(model).base(base).at(&minute).tokens(
            n,
            n % 7,
            3,
        )
    });
    made.collect()
}

/// What is left of a story but for its runs and moments.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub results: Vec<RatingResult>,
    pub rows: Vec<Rated>,
    pub anomalies: Vec<String>,
    pub chunks: i64,
}

/// A first run, a change of the events, and a second run.
pub(super) async fn story(arguments: &[&str]) -> Told {
    let rig = Rig::start(BOOK, arguments).await;
    rig.insert(events()).await;
    let first = rig.rated(backfill(7, 14)).await;
    rig.sql("DELETE FROM billing_event WHERE auth_id = 'a' AND model = 'acme/small'").await;
    rig.insert([event("late").auth("b").at("2026-06-01T09:15:00Z")]).await;
    let second = rig.rated(routine(7, 14)).await;
    let mut rows = rig.rows().await;
    for row in &mut rows {
        (row.run_id, row.rated_at, row.ctid, row.fence) = (String::new(), None, String::new(), 0);
    }
    let chunks = rig.count("rating_run_chunk").await;
    Told { results: vec![first, second], rows, anomalies: rig.anomalies().await, chunks }
}

#[tokio::test]
async fn a_run_of_many_chunks_equals_a_run_of_one() {
    let (one, many) = (story(&["--chunk-hours", "24"]).await, story(&["--chunk-hours", "1"]).await);
    assert_eq!((one.chunks, many.chunks), (2, 14));
    assert!(one.results[1].reconciled_deletions > 0 && one.results[1].ambiguous_base_events > 0);
    assert_eq!(Told { chunks: 2, ..many }, one);
}

/// Hours without events, hours whose events nobody can bill, and events that keep arriving in
/// hours that are being rated.
#[tokio::test]
async fn a_run_ends_whatever_its_hours_hold() {
    let rig = Rig::start(BOOK, &["--chunk-hours", "1"]).await;
    let never = |n: u32| [event(&format!("u{n}")).model("acme/unknown"), event(&format!("n{n}")).auth("")];
    let unbillable = (0..6).flat_map(never).map(|event| event.at("2026-06-01T03:30:00Z"));
    rig.insert(unbillable).await;
    let arriving = rig.pool().clone();
    let arrive = tokio::spawn(async move {
        for n in 0.. {
            let at = format!("2026-06-01T{:02}:15:00Z", n % 12);
            crate::harness::insert(&arriving, [event(&format!("late-{n}")).at(&at)]).await;
        }
    });
    let result = rig.rated(backfill(0, 12)).await;
    arrive.abort();
    assert_eq!((result.unpriced_events, result.unattributable_events), (6, 6));
    assert_eq!((rig.count("rating_run_chunk").await, rig.count("rating_lease").await), (12, 0));
    // Whatever came too late for it is in the next run, and then there is nothing left to do.
    rig.rated(backfill(0, 12)).await;
    let last = rig.rated(backfill(0, 12)).await;
    assert_eq!((last.inserted_rollups, last.updated_rollups), (0, 0));
    assert_eq!(last.rated_events + 12, last.events);
}
