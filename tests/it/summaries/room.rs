//! SummarizeRatedUsage beside others: reads of whole windows are bounded, and end.

use rater::grpc::client::Failure;
use rater::proto::*;
use tokio::task::JoinSet;

use super::by;
use crate::rig::{BOOK, Rig};

const LOCK: &str = "LOCK TABLE rated_usage IN ACCESS EXCLUSIVE MODE";

/// Begins summaries, which wait for whoever has the table locked.
fn waiting(rig: &Rig, calls: usize) -> JoinSet<Result<(), Failure>> {
    let mut summaries = JoinSet::new();
    for _ in 0..calls {
        let mut client = rig.client();
        summaries.spawn(async move { Ok(client.summarize_rated_usage(by(&[])).await.map(drop)?) });
    }
    summaries
}

#[tokio::test]
async fn slow_summaries_leave_room_for_followers_and_end_with_their_callers() {
    // Six connections for reads, three of them for such calls.
    let rig = Rig::start(BOOK, &["--database-connections", "12"]).await;
    let mut hold = rig.pool().begin().await.unwrap();
    sqlx::query(LOCK).execute(&mut *hold).await.unwrap();
    let summaries = waiting(&rig, 12);
    rig.until_blocked(3).await;
    let request = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    let mut changes = rig.client().stream_rated_usage_changes(request).await.unwrap().into_inner();
    assert!(changes.message().await.unwrap().is_some(), "the first keep-alive");
    assert_eq!(rig.blocked().await, 3, "no more of them look at a time");

    drop(summaries);
    rig.until_blocked(0).await;
    drop(hold);
    rig.client().summarize_rated_usage(by(&[])).await.unwrap();
}

#[tokio::test]
async fn a_summary_that_takes_too_long_says_what_to_do_and_not_to_try_again() {
    let rig = Rig::start(BOOK, &[]).await;
    let mut hold = rig.pool().begin().await.unwrap();
    sqlx::query(LOCK).execute(&mut *hold).await.unwrap();
    let mut summaries = waiting(&rig, 1);
    rig.until_blocked(1).await;
    // As the server does when the time is over.
    rig.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await;
    let refused = summaries.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), ("DEADLINE_EXCEEDED", "READ_TOO_LONG"));
    assert_eq!(refused.retry_after, None);
    assert!(refused.message.contains("since and until"), "{}", refused.message);
}
