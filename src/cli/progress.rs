//! How far a run has come, on standard error: a bar on a terminal, a line now and then
//! elsewhere. It never writes to standard output.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::console::Console;
use super::words::span;
use crate::proto::{Run, RunState};

/// A run that ends sooner says nothing.
const QUIET_FOR: Duration = Duration::from_secs(2);
/// Between two lines.
const BETWEEN: Duration = Duration::from_secs(10);
const BAR: &str = "{elapsed_precise} {wide_bar} {pos}/{len} hours{msg}";

/// Shows how far a run has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing is shown.
    Quiet,
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere.
    Lines(Lines),
}

impl Progress {
    /// As standard error is; nothing when `quiet`.
    pub fn new(quiet: bool, console: &Console<'_>) -> Progress {
        match quiet {
            true => Progress::Quiet,
            false if console.watched() => Progress::Bar(bar()),
            false => Progress::Lines(Lines::new(Instant::now())),
        }
    }

    /// The run as it is now.
    pub fn update(&mut self, run: &Run, console: &mut Console<'_>) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) => draw(bar, run),
            Progress::Lines(lines) => lines.latest = Some(words(run)),
        }
        self.tick(console);
    }

    /// Time has passed.
    pub fn tick(&mut self, console: &mut Console<'_>) {
        match self {
            Progress::Quiet => {}
            Progress::Bar(bar) if bar.length() == Some(0) => {}
            Progress::Bar(bar) => bar.tick(),
            Progress::Lines(lines) => {
                if let Some(line) = lines.due(Instant::now()) {
                    console.say(&line);
                }
            }
        }
    }

    /// Something else is written to standard error.
    pub fn aside(&self, write: impl FnOnce()) {
        match self {
            Progress::Bar(bar) if bar.length() != Some(0) => bar.suspend(write),
            _ => write(),
        }
    }
}

/// Nothing is drawn until the first length is known.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}

fn draw(bar: &ProgressBar, run: &Run) {
    let progress = run.progress.unwrap_or_default();
    bar.set_length(u64::try_from(progress.hours_total).unwrap_or_default());
    bar.set_position(u64::try_from(progress.hours_done).unwrap_or_default());
    bar.set_message(pace(run));
}

/// A line when one is due.
#[derive(Debug)]
pub struct Lines {
    began: Instant,
    said: Option<(Instant, String)>,
    latest: Option<String>,
}

impl Lines {
    fn new(began: Instant) -> Lines {
        Lines { began, said: None, latest: None }
    }

    /// What has changed, unless something was said a short time ago.
    fn due(&mut self, now: Instant) -> Option<String> {
        let latest = self.latest.as_ref()?;
        let early = match &self.said {
            None => now.duration_since(self.began) < QUIET_FOR,
            Some((at, said)) => now.duration_since(*at) < BETWEEN || said == latest,
        };
        if early {
            return None;
        }
        self.said = Some((now, latest.clone()));
        self.said.as_ref().map(|(_, line)| line.clone())
    }
}

/// `run r1: 5 of 24 hours, 1200 events, 300 events/s, about 3m 20s left`.
fn words(run: &Run) -> String {
    let progress = run.progress.unwrap_or_default();
    format!("run {}: {} of {} hours{}", run.run_id, progress.hours_done, progress.hours_total, pace(run))
}

/// What stands behind the hours.
fn pace(run: &Run) -> String {
    let progress = run.progress.unwrap_or_default();
    let mut words = format!(", {} events", progress.events_done);
    match run.state() {
        RunState::Pending => words += ", waiting for a process",
        RunState::Cancelling => words += ", stopping after the chunk in flight",
        _ => {
            if progress.events_per_second > 0 {
                words += &format!(", {} events/s", progress.events_per_second);
            }
            if let Some(eta) = progress.eta {
                words += &format!(", about {} left", span(eta));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::RunProgress;

    fn run(state: RunState, hours_done: i64) -> Run {
        let progress = RunProgress {
            hours_total: 24,
            hours_done,
            events_done: 1_200,
            events_per_second: 300,
            eta: Some(prost_types::Duration { seconds: 200, nanos: 0 }),
            updated_at: None,
        };
        Run { run_id: "r1".into(), state: state.into(), progress: Some(progress), ..Run::default() }
    }

    #[test]
    fn a_line_tells_hours_events_pace_and_what_is_left() {
        let words = |state| words(&run(state, 5));
        let expected = "run r1: 5 of 24 hours, 1200 events, 300 events/s, about 3m 20s left";
        assert_eq!(words(RunState::Running), expected);
        assert_eq!(words(RunState::Pending), "run r1: 5 of 24 hours, 1200 events, waiting for a process");
        assert!(words(RunState::Cancelling).ends_with(", stopping after the chunk in flight"));
    }

    #[test]
    fn lines_come_after_two_seconds_and_then_every_ten_when_something_changed() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut lines = Lines::new(began);
        assert_eq!(lines.due(at(5)), None, "nothing is known");
        lines.latest = Some("one".into());
        assert_eq!(lines.due(at(1)), None, "a short run says nothing");
        assert_eq!(lines.due(at(2)).as_deref(), Some("one"));
        lines.latest = Some("two".into());
        assert_eq!(lines.due(at(11)), None, "too soon");
        assert_eq!(lines.due(at(12)).as_deref(), Some("two"));
        assert_eq!(lines.due(at(60)), None, "nothing changed");
    }

    #[test]
    fn a_bar_takes_its_length_from_the_run() {
        let bar = ProgressBar::hidden();
        draw(&bar, &run(RunState::Running, 5));
        assert_eq!((bar.length(), bar.position()), (Some(24), 5));
        assert_eq!(bar.message(), ", 1200 events, 300 events/s, about 3m 20s left");
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
