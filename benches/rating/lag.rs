//! The lag of a follower: from a batch's commit to the receipt of its last change, while backfills
//! change every rollup, run after run.
//!
//! `changed_at` is the server's clock just before COMMIT, and the follower's clock is the same
//! machine's: what is printed is the lag and the COMMIT itself, never less than the lag.

use chrono::{DateTime, Utc};
use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::{GetRatedUsageRequest, StreamRatedUsageChangesRequest};
use tokio_util::sync::CancellationToken;

use super::backfill::{Backfills, Work};
use super::{Outcome, verdict};

/// Of the 99th percentile, in milliseconds.
const LIMIT: f64 = 100.0;
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

pub async fn measure(backfills: &mut Backfills<'_>, full: bool) -> Outcome<()> {
    let batches = if full { 500 } else { 100 };
    backfills.tidy().await?;
    let channel = backfills.connect().await?;
    let mut client = RatingServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let first = GetRatedUsageRequest { page_size: 1, ..GetRatedUsageRequest::default() };
    let cursor = client.get_rated_usage(first).await?.into_inner().change_cursor;
    let request = StreamRatedUsageChangesRequest { cursor, follow: true, filter: None };
    let changes = client.stream_rated_usage_changes(request).await?.into_inner();

    backfills.reprice()?;
    let run = backfills.begin().await?;
    let enough = CancellationToken::new();
    let following = async {
        let told = follow(changes, batches).await;
        enough.cancel();
        told
    };
    let (told, rated) = tokio::join!(following, backfills.go_on(run, Work::Rewrites, &enough));
    rated?;
    let Told { mut lags, changes } = told?;
    lags.sort_by(f64::total_cmp);
    let [p50, p95, p99] = [50, 95, 99].map(|percent| lags[(lags.len() * percent).div_ceil(100) - 1]);
    println!("\nlag of a follower beside backfills that change every rollup");
    println!("{:<42}    p50    p95    p99    most", "milliseconds from COMMIT to receipt");
    println!(
        "{:<42} {p50:>6.1} {p95:>6.1} {p99:>6.1}  {:>6.1}{}",
        format!("{batches} batches, {} changes each", changes / batches),
        lags[lags.len() - 1],
        verdict(p99, full.then_some(LIMIT))
    );
    Ok(())
}

/// What a follower saw: how long each batch took, in milliseconds.
struct Told {
    lags: Vec<f64>,
    changes: usize,
}

/// So many whole batches. A batch is one chunk's changes, which have one time.
async fn follow(
    mut messages: tonic::Streaming<rater::proto::StreamRatedUsageChangesResponse>,
    batches: usize,
) -> Outcome<Told> {
    let mut told = Told { lags: Vec::new(), changes: 0 };
    let mut batch: Option<(DateTime<Utc>, f64)> = None;
    while told.lags.len() < batches {
        let message = messages.message().await?.ok_or("the stream ended")?;
        let received = Utc::now();
        for change in &message.changes {
            let at = change.changed_at.ok_or("a change without a time")?;
            let at = DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos)?).ok_or("no time")?;
            if let Some((before, lag)) = batch
                && before != at
            {
                told.lags.push(lag);
            }
            let lag = (received - at).num_microseconds().ok_or("a lag of ages")?;
            batch = Some((at, f64::from(i32::try_from(lag)?) / 1_000.0));
        }
        told.changes += message.changes.len();
    }
    told.lags.truncate(batches);
    Ok(told)
}
