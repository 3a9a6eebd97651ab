//! A run of 90 days whose process died on day 40: it is never resumed over a later backfill of the
//! days that it had left, and nothing else keeps it from its end.

use rater::proto::Trigger;

use super::*;
use crate::stage::{rate, window};

const DAY: i64 = 24;

/// Five days a chunk: the statement's plan is most of what a chunk of few events costs.
const ARGUMENTS: [&str; 4] = ["--chunk-hours", "120", "--lease-ttl", "2s"];

async fn died_on_day_40_of_90() -> Dead {
    let stage = Stage::new().await;
    stage.fill("e", 0, 90 * DAY, 1).await;
    Dead::after(8, stage, window(0, 90 * DAY), &ARGUMENTS).await
}

#[tokio::test]
async fn a_run_is_not_resumed_over_a_later_backfill_of_the_days_it_had_left() {
    let dead = died_on_day_40_of_90().await;
    let other = dead.waits().await;
    let service = dead.stage.service(&ARGUMENTS).await;
    // The last day that it had left.
    let later = RateWindowRequest { reason: "a late price".into(), ..window(49 * DAY, 50 * DAY) };
    rate(&service, later).await.unwrap();
    let failed = ended("failed", "LEASE_LOST", 50 * DAY);
    assert_eq!(dead.record().await, failed);
    assert_eq!(logged(&[&service], "message", "a run without a process has failed").await.len(), 1);
    // Whoever looks later leaves it so.
    dead.goes_on(other).await;
    let taken = store(&dead.stage).take_over(book(&dead.stage).digest(), SOON).await.unwrap();
    assert_eq!((taken.len(), dead.record().await), (0, failed));
    assert_eq!(dead.stage.number(CHUNKS).await, 9);
    rate(&service, window(0, 49 * DAY)).await.unwrap();
    assert_billed_once(&dead.stage).await;
}

/// As soon as the backfill begins, whatever becomes of that.
#[tokio::test]
async fn a_later_backfill_ends_the_run_when_it_begins() {
    let dead = died_on_day_40_of_90().await;
    end_leases(&dead.stage).await;
    let db = store(&dead.stage);
    let begun = db.begin_run(&new_run("later", 0, 1, &book(&dead.stage))).await.unwrap();
    let Begun::Started(_, told) = begun else { panic!("{begun:?}") };
    assert_eq!(told, std::slice::from_ref(&dead.run_id));
    let failed = ended("failed", "LEASE_LOST", 50 * DAY);
    assert_eq!(dead.record().await, failed);
    // Its process dies, too; it goes on, and the one that it ended does not.
    end_leases(&dead.stage).await;
    let _service = dead.stage.service(&ARGUMENTS).await;
    let later = async || record(&dead.stage, "later").await.state;
    until("the later one is done", SOON, async || later().await == "succeeded").await;
    assert_eq!(dead.record().await, failed);
}

#[tokio::test]
async fn a_later_routine_run_or_a_backfill_of_its_committed_days_does_not_end_a_run() {
    let dead = died_on_day_40_of_90().await;
    let other = dead.waits().await;
    let service = dead.stage.service(&ARGUMENTS).await;
    let routine = RateWindowRequest { trigger: Trigger::Routine.into(), ..window(10 * DAY, 11 * DAY) };
    assert_eq!(rate(&service, routine).await.unwrap().inserted_rollups, DAY);
    assert_eq!(dead.record().await, ended("pending", "", 50 * DAY));
    // Next to what is left.
    let committed = rate(&service, window(50 * DAY, 52 * DAY)).await.unwrap();
    assert_eq!(committed.unchanged_rollups, 2 * DAY);
    assert_eq!(dead.record().await, ended("pending", "", 50 * DAY));

    dead.goes_on(other).await;
    assert_eq!(dead.end().await, ended("succeeded", "", 0));
    assert_billed_once(&dead.stage).await;
    stop(service).await;
}
