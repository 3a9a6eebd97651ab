//! What the records say, put into gauges every 15 s by every process that serves, so that one that
//! was just started knows what those before it did (R9: alerts look at records).
//!
//! A role that may not see something has no series of it; whichever process may, shows it. While looks
//! fail the gauges stand still for some minutes, and `records_looked_at` says since when; then they go,
//! so that what one process saw long ago does not speak against what the others see.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use crate::domain::outcome::{decrease_refused, findings, possible_findings};
use crate::domain::rating::AnomalyKind;
use crate::domain::window::Trigger;
use crate::metrics::Metrics;
use crate::store::{Db, DbOptions, EndedRuns, Error};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Runs that ended within this time are told. So an alert that nobody saw in the night is still
/// there in the morning, and one that was dealt with goes.
const RECENT: Duration = Duration::from_secs(6 * 3600);
/// What was seen is shown for so long: until `RaterRecordsNotSeen` has come.
const STALE: Duration = Duration::from_secs(10 * 60);
/// A look that takes longer hangs: its statements have shorter limits of their own.
const LOOK_WITHIN: Duration = Duration::from_secs(60);
/// A connection that has not come by then is looked for again at the next look.
const PATIENCE: Duration = Duration::from_secs(5);

const TRIGGERS: [Trigger; 2] = [Trigger::Routine, Trigger::Backfill];
const KINDS: [AnomalyKind; 4] =
    [AnomalyKind::Unpriced, AnomalyKind::Unattributable, AnomalyKind::AmbiguousBase, AnomalyKind::Malformed];

/// Looks until it is told to stop, over a connection of its own: a busy service is looked at, too.
pub async fn observe(
    options: DbOptions,
    closing_delay: Duration,
    metrics: &Metrics,
    mut ready: watch::Receiver<Readiness>,
    stop: CancellationToken,
) {
    let options = DbOptions { max_connections: 1, acquire_timeout: PATIENCE, ..options };
    let Ok(db) = Db::new(&options) else { return };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sight = Sight { seen_at: Instant::now(), trouble: false };
    loop {
        metrics.ready(ready.borrow_and_update().is_ready());
        tokio::select! {
            // Readiness ends with the service, which is not ready from then on.
            changed = ready.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {
                let looked = timeout(LOOK_WITHIN, look(&db, closing_delay, metrics)).await;
                sight.after(looked.unwrap_or_else(|_| Err(Error::gone())), Instant::now(), metrics);
            }
            // What is left is the word that it is stopping.
            () = stop.cancelled() => {
                metrics.ready(false);
                return;
            }
        }
    }
}

/// When the runs were last seen.
struct Sight {
    seen_at: Instant,
    trouble: bool,
}

impl Sight {
    /// A change is one line of the log. What is too old to be shown goes.
    fn after(&mut self, looked: Result<Option<i64>, Error>, now: Instant, metrics: &Metrics) {
        match &looked {
            Err(error) if !self.trouble => {
                tracing::warn!(error = %error, "could not look at the records; their metrics stand still");
            }
            Ok(_) if self.trouble => tracing::info!("the records are looked at again"),
            _ => {}
        }
        self.trouble = looked.is_err();
        if let Ok(Some(at)) = looked {
            self.seen_at = now;
            metrics.records_looked_at(at);
        } else if now - self.seen_at > STALE {
            metrics.forget_records();
        }
    }
}

/// Looks once. Says when that was, in Unix seconds by this process's clock; `None` where the role may
/// not see the runs, on which most alerts stand.
pub async fn look(db: &Db, closing_delay: Duration, metrics: &Metrics) -> Result<Option<i64>, Error> {
    let begun = Instant::now();
    let at = chrono::Utc::now().timestamp();
    let ended = seen(db.ended_runs(RECENT).await)?;
    if let Some(ended) = &ended {
        show_ended(ended, metrics);
    }
    if let Some(successes) = seen(db.last_successes(closing_delay).await)? {
        successes.iter().for_each(|(trigger, at)| metrics.last_success(trigger.as_str(), at.timestamp()));
    }
    if let Some(open) = seen(db.open_runs().await)? {
        let runs: Vec<_> =
            open.iter().map(|runs| (runs.trigger.as_str(), runs.state.as_str(), runs.runs)).collect();
        metrics.open_runs(&runs);
        for trigger in TRIGGERS {
            let still = open.iter().filter(|runs| runs.trigger == trigger).map(|runs| runs.still_for).max();
            metrics.open_run_still(trigger.as_str(), still.unwrap_or(0));
        }
    }
    if let Some(leases) = seen(db.leases().await)? {
        metrics.leases(leases.live, leases.expired);
    }
    if let Some(ago) = seen(db.oldest_unrated_hour(closing_delay).await)? {
        metrics.oldest_unrated_hour(ago.unwrap_or(0));
    }
    if let Some(unbilled) = seen(db.unbilled_events().await)? {
        for kind in KINDS {
            let found = unbilled.iter().find(|found| found.kind == kind);
            metrics.unbilled_events(kind.as_str(), found.map_or(0, |found| found.events));
            metrics.recent_unbilled_events(kind.as_str(), found.map_or(0, |found| found.recent));
        }
    }
    tracing::debug!(milliseconds = begun.elapsed().as_millis() as u64, "looked at the records");
    Ok(ended.map(|_| at))
}

/// What the role may not see is nothing to tell.
fn seen<T>(looked: Result<T, Error>) -> Result<Option<T>, Error> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(Error::Denied(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn show_ended(ended: &[EndedRuns], metrics: &Metrics) {
    let runs: Vec<_> =
        ended.iter().map(|runs| (runs.trigger.as_str(), runs.state.as_str(), runs.runs)).collect();
    metrics.recent_runs(&runs);
    for trigger in TRIGGERS {
        let found: Vec<_> = ended
            .iter()
            .filter(|runs| runs.trigger == trigger)
            .flat_map(|runs| {
                let refused = Some(runs.refused_rollups).filter(|count| *count > 0).map(decrease_refused);
                findings(&runs.counts, trigger).into_iter().chain(refused)
            })
            .collect();
        for possible in possible_findings(trigger) {
            let counts = found.iter().filter(|finding| finding.code == possible.code).map(|f| f.count);
            let (code, severity) = (possible.code.as_str(), possible.severity.as_str());
            metrics.recent_finding(code, severity, trigger.as_str(), counts.sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_long_ago_is_shown_no_more() {
        let metrics = Metrics::new();
        let shown = || {
            let text = metrics.encode().expect("memory");
            (
                text.contains("rater_recent_findings{"),
                text.contains("rater_run_last_success_timestamp_seconds{"),
            )
        };
        for again in [Err(Error::gone()), Ok(None)] {
            let begun = Instant::now();
            let mut sight = Sight { seen_at: begun, trouble: false };
            metrics.recent_finding("RECONCILED_DELETIONS", "error", "routine", 5);
            metrics.last_success("routine", 7);
            sight.after(Ok(Some(7)), begun, &metrics);
            // A failover is over by then.
            sight.after(Err(Error::gone()), begun + STALE, &metrics);
            assert_eq!(shown(), (true, true));
            sight.after(again, begun + STALE + LOOK_EVERY, &metrics);
            assert_eq!(shown(), (false, false));
            let text = metrics.encode().expect("memory");
            assert!(text.contains("rater_records_looked_at_timestamp_seconds 7"), "{text}");
        }
    }
}
