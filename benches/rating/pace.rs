//! Whether a run keeps its pace: its last chunks against its first, of as many events each. Of
//! several runs the best time of each chunk counts.

use super::backfill::{Backfills, Work};
use super::{Outcome, verdict};

const LIMIT: f64 = 1.3;
/// How many chunks are an end.
const AN_END: usize = 10;

/// The chunks of several runs of one kind, in milliseconds.
#[derive(Default)]
struct Runs(Vec<Vec<f64>>);

pub async fn measure(backfills: &mut Backfills<'_>, full: bool, rounds: i64) -> Outcome<()> {
    let rounds = if full { rounds.min(3) } else { 1 };
    let quarter = backfills.quarter;
    let days = quarter.window.hour_count() / 24;
    let [mut first, mut again, mut rewrites] = [(); 3].map(|()| Runs::default());
    for _ in 0..rounds {
        backfills.empty().await?;
        first.0.push(backfills.run(Work::Inserts).await?);
        backfills.tidy().await?;
        again.0.push(backfills.run(Work::ChangesNothing).await?);
        backfills.reprice()?;
        rewrites.0.push(backfills.run(Work::Rewrites).await?);
    }
    println!(
        "\npace over {days} days, {} events in {} rollups a day, {rounds} rounds",
        quarter.events / days,
        quarter.rollups / days
    );
    println!("{:<42} the median of", "");
    println!("{:<42} the first {AN_END}   the last {AN_END}   ratio", "milliseconds a chunk of 24 hours");
    let limit = full.then_some(LIMIT);
    for (work, runs) in [(Work::Inserts, first), (Work::ChangesNothing, again), (Work::Rewrites, rewrites)] {
        runs.print(work, limit);
    }
    Ok(())
}

impl Runs {
    /// The best time of each chunk.
    fn best(&self) -> Vec<f64> {
        let mut best = self.0.first().cloned().unwrap_or_default();
        for run in &self.0 {
            for (best, took) in best.iter_mut().zip(run) {
                *best = best.min(*took);
            }
        }
        best
    }

    fn print(&self, work: Work, limit: Option<f64>) {
        let best = self.best();
        let end = AN_END.min(best.len());
        let (first, last) = (median(&best[..end]), median(&best[best.len() - end..]));
        let ratio = last / first;
        println!("{:<42} {first:>12.2} {last:>13.2} {ratio:>7.2}{}", work.name(), verdict(ratio, limit));
    }
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}
