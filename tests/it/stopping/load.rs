//! Every kind of call, many at once, each remembered with what it came to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::Service;
use crate::stage::{Refusal, Stage, event, until, window};

/// The hours that events are of, and runs over.
pub const HOURS: i64 = 24;
/// Events in a batch.
const BATCH: usize = 5;
/// Callers of each kind.
const CALLERS: usize = 4;

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Its result.
    Answered,
    /// The service said no, by a reason.
    Refused,
    /// No word of the service: it must not have been accepted.
    Unheard,
}

fn came<T>(answer: &Result<T, Status>) -> Came {
    let Err(status) = answer else { return Came::Answered };
    let refusal = Refusal::from(status.clone());
    if !refusal.reason.is_empty() {
        let expected = ["SHUTTING_DOWN", "WINDOW_BUSY", "OVERLOADED", "RUN_CANCELLED", "LEASE_LOST"];
        assert!(expected.contains(&refusal.reason.as_str()), "{refusal:?}");
        return Came::Refused;
    }
    // The client's own word for a connection that it could not make, or not use any more: it has a
    // source, such as the GOAWAY that names the last call which was accepted.
    assert!(std::error::Error::source(status).is_some() || status.code() == Code::Cancelled, "{status:?}");
    Came::Unheard
}

/// All that was called so far.
#[derive(Default)]
pub struct Load {
    /// The prefix of a batch's ids, and what it came to.
    batches: Vec<(String, Came)>,
    /// The request id of a run, and what its call came to.
    runs: Vec<(String, Came)>,
    reads: usize,
    unheard: usize,
    /// The followers' cursors and changes.
    followed: Vec<(String, Vec<String>)>,
    resumed: usize,
}

/// A round under way.
pub struct Running {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    rated: Arc<AtomicUsize>,
    calls: JoinSet<Load>,
}

impl Running {
    /// Until every kind of call has been answered a while.
    pub async fn until_busy(&self) {
        until("calls are answered", Duration::from_secs(60), async || {
            self.answered.load(Ordering::Relaxed) > 30 && self.rated.load(Ordering::Relaxed) > 2
        })
        .await;
    }
}

/// One caller's way to tell that it goes on.
#[derive(Clone)]
struct Caller {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    rated: Arc<AtomicUsize>,
    name: String,
}

impl Caller {
    /// Whether to call on after this.
    fn goes_on(&self, came: Came) -> bool {
        self.answered.fetch_add(1, Ordering::Relaxed);
        came != Came::Unheard && !self.stop.load(Ordering::Relaxed)
    }
}

impl Load {
    pub async fn begin(&mut self, service: &Service, round: usize) -> Running {
        let (stop, answered, rated) = (Arc::default(), Arc::default(), Arc::default());
        let mut calls = JoinSet::new();
        self.followed.resize(CALLERS, Default::default());
        for n in 0..CALLERS {
            let name = format!("{round}-{n}");
            let [answered, rated] = [&answered, &rated].map(Arc::clone);
            let caller = Caller { stop: Arc::clone(&stop), answered, rated, name };
            calls.spawn(batches(service.client_events().await, caller.clone()));
            let rating = service.client_rating().await;
            calls.spawn(runs(rating.clone(), caller.clone(), n as i64));
            calls.spawn(reads(rating.clone(), caller.clone()));
            let (cursor, _) = self.followed[n].clone();
            calls.spawn(follows(service.client_rating().await, n, cursor));
        }
        Running { stop, answered, rated, calls }
    }

    /// Waits for what every call came to.
    pub async fn end(&mut self, mut running: Running) {
        running.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = running.calls.join_next().await {
            let Load { batches, runs, reads, unheard, followed, .. } = ended.unwrap();
            self.batches.extend(batches);
            self.runs.extend(runs);
            self.reads += reads;
            self.unheard += unheard;
            for (n, (cursor, changes)) in followed.into_iter().enumerate().filter(|(_, f)| !f.0.is_empty()) {
                self.resumed += 1;
                self.followed[n].0 = cursor;
                self.followed[n].1.extend(changes);
            }
        }
    }

    /// What was answered is there, once; what was not heard is not.
    pub async fn holds(&self, stage: &Stage, round: usize) {
        for (batch, came) in self.batches.iter().filter(|(batch, _)| batch.starts_with(&format!("{round}-")))
        {
            let sql = format!("SELECT count(*) FROM billing_event WHERE request_id LIKE '{batch}-%'");
            let stored = stage.number(&sql).await;
            let expected = if *came == Came::Answered { BATCH as i64 } else { 0 };
            assert_eq!(stored, expected, "batch {batch} {came:?}");
        }
        for (run, came) in self.runs.iter().filter(|(run, _)| run.starts_with(&format!("{round}-"))) {
            let sql = format!("SELECT count(*) FROM rating_run WHERE request_id = '{run}'");
            let (runs, state) = (stage.number(&sql).await, format!("{sql} AND state = 'succeeded'"));
            match came {
                Came::Answered => assert_eq!((runs, stage.number(&state).await), (1, 1), "run {run}"),
                Came::Refused => assert!(runs <= 1, "run {run}"),
                Came::Unheard => assert_eq!(runs, 0, "run {run} was accepted, and not answered"),
            }
        }
    }

    /// Calls again what had no answer.
    pub async fn repeat(&mut self, service: &Service) {
        let mut events = service.client_events().await;
        for (batch, came) in &mut self.batches {
            let answer = events.record_events(batch_of(batch)).await.unwrap().into_inner();
            let expected = if *came == Came::Answered { (0, BATCH as i64) } else { (BATCH as i64, 0) };
            assert_eq!((answer.stored, answer.duplicates), expected, "batch {batch}");
        }
    }

    /// Every batch once, a run for each request id at most, and the whole feed for every follower.
    pub async fn is_complete(&self, stage: &Stage, service: &Service) {
        let all = stage.number("SELECT count(*) FROM billing_event").await;
        assert_eq!(all, (self.batches.len() * BATCH) as i64);
        let twice = "SELECT count(*) - count(DISTINCT request_id) FROM rating_run WHERE request_id <> ''";
        assert_eq!(stage.number(twice).await, 0);
        let client = service.client_rating().await;
        let (_, feed) = read(client.clone(), String::new(), false).await;
        assert!(!feed.is_empty());
        for (cursor, changes) in &self.followed {
            let (_, rest) = read(client.clone(), cursor.clone(), false).await;
            assert_eq!([&changes[..], &rest[..]].concat(), feed);
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |calls: &[(String, Came)], wanted: Came| calls.iter().filter(|c| c.1 == wanted).count();
        let each = |calls: &[(String, Came)]| {
            let [answered, refused, unheard] =
                [Came::Answered, Came::Refused, Came::Unheard].map(|came| count(calls, came));
            format!("{answered} answered, {refused} refused, {unheard} not heard")
        };
        let (batches, runs) = (each(&self.batches), each(&self.runs));
        let Load { reads, unheard, resumed, .. } = self;
        write!(
            f,
            "batches {batches}; runs {runs}; {reads} reads, {unheard} not heard; {resumed} streams resumed"
        )
    }
}

fn batch_of(name: &str) -> RecordEventsRequest {
    let hour = |n: usize| (name.len() + n) as i64 % HOURS;
    let events = (0..BATCH).map(|n| event(&format!("{name}-{n}"), hour(n)));
    RecordEventsRequest { events: events.collect(), skip_invalid: false }
}

async fn batches(mut client: event_service_client::EventServiceClient<Channel>, caller: Caller) -> Load {
    let mut load = Load::default();
    for n in 0.. {
        let batch = format!("{}-{n}", caller.name);
        let came = came(&client.record_events(batch_of(&batch)).await);
        load.batches.push((batch, came));
        // So that many rounds leave no more than is soon rated.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if !caller.goes_on(came) {
            break;
        }
    }
    load
}

/// Over hours of its own, so that they wait for no other's.
async fn runs(mut client: RatingServiceClient<Channel>, caller: Caller, nth: i64) -> Load {
    let hours = HOURS / CALLERS as i64;
    let mut load = Load::default();
    for n in 0.. {
        let run = format!("{}-{n}", caller.name);
        let detach = n % 5 == 4;
        let request =
            RateWindowRequest { request_id: run.clone(), detach, ..window(nth * hours, (nth + 1) * hours) };
        let answer = client.rate_window(request).await;
        let came = came(&answer);
        // What is detached has no result to hold it against.
        if !detach {
            load.runs.push((run, came));
        }
        if let Ok(begun) = answer {
            caller.rated.fetch_add(1, Ordering::Relaxed);
            let run_id = begun.into_inner().run_id;
            drop(client.get_run(GetRunRequest { run_id: run_id.clone() }).await);
            if n % 10 == 9 {
                drop(client.cancel_run(CancelRunRequest { run_id }).await);
            }
        }
        if !caller.goes_on(came) {
            break;
        }
    }
    load
}

async fn reads(mut client: RatingServiceClient<Channel>, caller: Caller) -> Load {
    let mut load = Load::default();
    for n in 0.. {
        let range = window(0, HOURS);
        let filter = Some(UsageFilter { since: range.since, until: range.until, ..Default::default() });
        let came = match n % 6 {
            0 => came(&client.list_runs(ListRunsRequest::default()).await),
            1 => came(&client.get_rated_usage(GetRatedUsageRequest { filter, ..Default::default() }).await),
            2 => {
                let request = SummarizeRatedUsageRequest { filter, ..Default::default() };
                came(&client.summarize_rated_usage(request).await)
            }
            3 => came(&client.list_anomalies(ListAnomaliesRequest::default()).await),
            4 => came(&client.get_pricebook(GetPricebookRequest::default()).await),
            _ => came(&client.rate_window(RateWindowRequest { dry_run: true, ..range }).await),
        };
        load.reads += 1;
        load.unheard += usize::from(came == Came::Unheard);
        if !caller.goes_on(came) {
            break;
        }
    }
    load
}

async fn follows(client: RatingServiceClient<Channel>, n: usize, cursor: String) -> Load {
    let mut load = Load { followed: vec![Default::default(); CALLERS], ..Load::default() };
    load.followed[n] = read(client, cursor, true).await;
    load
}

/// The changes after a cursor, up to the end of the stream, and the last cursor.
async fn read(
    mut client: RatingServiceClient<Channel>,
    mut cursor: String,
    follow: bool,
) -> (String, Vec<String>) {
    let mut changes = Vec::new();
    let request = StreamRatedUsageChangesRequest { cursor: cursor.clone(), follow, ..Default::default() };
    let mut stream = match client.stream_rated_usage_changes(request).await {
        Ok(stream) => stream.into_inner(),
        answer => {
            came(&answer);
            return (cursor, changes);
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                cursor = message.cursor;
                changes.extend(message.changes.into_iter().map(|change| change.change_id));
            }
            Ok(None) => {
                assert!(!follow, "a stream that follows has no good end");
                return (cursor, changes);
            }
            Err(status) => {
                // Said, and not broken off.
                let refusal = Refusal::from(status);
                assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
                return (cursor, changes);
            }
        }
    }
}
