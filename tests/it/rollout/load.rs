//! What goes on during a rollout: senders that repeat what has no answer, callers who rate, some of
//! them with one request id at two services at once, and consumers of the change stream who come back
//! with their cursor to whichever build is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rater::proto::rating_service_client::RatingServiceClient;
use rater::proto::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::fleet::Fleet;
use super::{Build, SOON};
use crate::changes::Copy;
use crate::events::Random;
use crate::stage::{event, until, window};

pub type Rating = RatingServiceClient<Channel>;

/// The hours that all of it is about.
pub const HOURS: i64 = 12;
const SENDERS: u64 = 2;
const CALLERS: u64 = 3;
const CONSUMERS: u64 = 2;

/// What was answered, by which build and with what, and the longest that a sender waited for a service.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: BTreeMap<(Build, String), u64>,
    pub longest: Duration,
}

#[derive(Clone)]
struct Actor {
    fleet: Arc<Fleet>,
    tally: Arc<Mutex<Tally>>,
    over: watch::Receiver<bool>,
}

pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    end: watch::Sender<bool>,
    senders: Vec<JoinHandle<i64>>,
    callers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<Copy>>,
}

impl Load {
    pub fn begin(fleet: &Arc<Fleet>, seed: u64) -> Load {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let ((stop, over), (end, ended)) = (watch::channel(false), watch::channel(false));
        let actor = Actor { fleet: fleet.clone(), tally: tally.clone(), over };
        let consumer = Actor { over: ended, ..actor.clone() };
        let random = |n| Random(seed + n);
        Load {
            senders: (0..SENDERS).map(|n| tokio::spawn(actor.clone().send(n, random(n)))).collect(),
            callers: (0..CALLERS).map(|n| tokio::spawn(actor.clone().rate(n, random(100 + n)))).collect(),
            consumers: (0..CONSUMERS)
                .map(|n| tokio::spawn(consumer.clone().follow(random(200 + n))))
                .collect(),
            tally,
            stop,
            end,
        }
    }

    /// Waits until each of these builds has answered so many batches and runs more, and told changes.
    pub async fn goes_on(&self, builds: &[Build], more: u64) {
        let of = |build: Build, what: &str| {
            let tally = self.tally.lock().unwrap();
            tally.answers.get(&(build, what.into())).copied().unwrap_or(0)
        };
        for what in ["batch", "run", "changes"] {
            for build in builds {
                let before = of(*build, what);
                let text = format!("{build:?} answers: {what}");
                until(&text, SOON * 2, async || of(*build, what) >= before + more).await;
            }
        }
    }

    /// No more events and runs; how many events were sent.
    pub async fn stop(&mut self) -> i64 {
        self.stop.send(true).unwrap();
        let mut events = 0;
        for sender in self.senders.drain(..) {
            events += sender.await.unwrap();
        }
        for caller in self.callers.drain(..) {
            caller.await.unwrap();
        }
        events
    }

    /// What each consumer has in the end, and all that was answered.
    pub async fn end(self) -> (Vec<Copy>, Tally) {
        self.end.send(true).unwrap();
        let mut copies = Vec::new();
        for consumer in self.consumers {
            copies.push(consumer.await.unwrap());
        }
        (copies, std::mem::take(&mut *self.tally.lock().unwrap()))
    }
}

/// What passes when it is tried again elsewhere; anything else is a defect.
fn passes(status: &Status) -> String {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let by_us = matches!(status.code(), Code::Unavailable | Code::Aborted | Code::ResourceExhausted);
    // A process that was killed says nothing; what is told then is the client's own.
    let cut = reason.is_empty() && matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal);
    assert!(by_us || cut, "{status:?}");
    if reason.is_empty() { "cut off".into() } else { reason }
}

impl Actor {
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    fn note(&self, build: Build, what: &str) {
        *self.tally.lock().unwrap().answers.entry((build, what.into())).or_default() += 1;
    }

    async fn connect(&self, random: &mut Random) -> Option<(Build, Channel)> {
        if let Some((build, url)) = self.fleet.any(random)
            && let Ok(channel) = Endpoint::from_shared(url).unwrap().connect().await
        {
            return Some((build, channel));
        }
        // Between two that come and go.
        tokio::time::sleep(Duration::from_millis(5)).await;
        None
    }

    async fn send(self, sender: u64, mut random: Random) -> i64 {
        let mut sent = 0;
        while !self.is_over() {
            let count = 1 + random.below(20) as i64;
            let events: Vec<BillingEvent> =
                (sent..sent + count).map(|n| any_event(&format!("{sender}-{n}"), &mut random)).collect();
            let answer = self.deliver(&events, &mut random).await;
            assert_eq!(answer.stored + answer.duplicates, count);
            if random.below(3) == 0 {
                let again = self.deliver(&events, &mut random).await;
                assert_eq!((again.stored, again.duplicates), (0, count), "whichever build had it");
            }
            sent += count;
        }
        sent
    }

    /// Until there is an answer, from whoever gives one.
    async fn deliver(&self, events: &[BillingEvent], random: &mut Random) -> RecordEventsResponse {
        let began = Instant::now();
        loop {
            let Some((build, channel)) = self.connect(random).await else { continue };
            let mut client = event_service_client::EventServiceClient::new(channel);
            let request = RecordEventsRequest { events: events.to_vec(), skip_invalid: false };
            match client.record_events(request).await {
                Ok(answer) => {
                    self.note(build, "batch");
                    let mut tally = self.tally.lock().unwrap();
                    tally.longest = tally.longest.max(began.elapsed());
                    return answer.into_inner();
                }
                Err(status) => self.note(build, &passes(&status)),
            }
        }
    }

    async fn rate(self, caller: u64, mut random: Random) {
        for n in 0.. {
            if self.is_over() {
                return;
            }
            let from = random.below(HOURS as u64) as i64;
            let until = HOURS.min(from + 1 + random.below(5) as i64);
            let request = RateWindowRequest {
                request_id: format!("{caller}-{n}"),
                trigger: [Trigger::Backfill, Trigger::Routine][random.below(2) as usize].into(),
                ..window(from, until)
            };
            let mut second = Random(random.below(u64::MAX));
            if random.below(2) == 0 {
                let (one, two) =
                    tokio::join!(self.ask(&request, &mut random), self.ask(&request, &mut second));
                if let (Some(one), Some(two)) = (one, two) {
                    assert_eq!(one, two, "one request id, one run, one result");
                }
            } else {
                self.ask(&request, &mut random).await;
            }
        }
    }

    /// None: a later backfill has taken the rest of a run whose process was gone.
    async fn ask(&self, request: &RateWindowRequest, random: &mut Random) -> Option<RateWindowResponse> {
        loop {
            let Some((build, channel)) = self.connect(random).await else { continue };
            match Rating::new(channel).rate_window(request.clone()).await {
                Ok(answer) => {
                    self.note(build, "run");
                    return Some(answer.into_inner());
                }
                Err(status) => {
                    let reason = passes(&status);
                    self.note(build, &reason);
                    if reason == "LEASE_LOST" {
                        return None;
                    }
                    // Who is refused a window waits a moment, as RetryInfo says.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Follows, leaves in the middle of whatever there is, and comes back elsewhere with the cursor;
    /// at the end up to the last change.
    async fn follow(self, mut random: Random) -> Copy {
        let (mut copy, mut cursor) = (Copy::default(), String::new());
        loop {
            let last = self.is_over();
            let mut messages = if last { u64::MAX } else { 1 + random.below(8) };
            let patience = Duration::from_millis(if last { 30_000 } else { 50 + random.below(300) });
            let Some((build, channel)) = self.connect(&mut random).await else { continue };
            let request = StreamRatedUsageChangesRequest {
                cursor: cursor.clone(),
                follow: !last,
                ..Default::default()
            };
            let mut stream = match Rating::new(channel).stream_rated_usage_changes(request).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => {
                    self.note(build, &passes(&status));
                    continue;
                }
            };
            while messages > 0 {
                let Ok(told) = tokio::time::timeout(patience, stream.message()).await else { break };
                match told {
                    Ok(Some(message)) => {
                        message.changes.iter().for_each(|change| copy.apply_strictly(change));
                        (cursor, messages) = (message.cursor, messages - 1);
                        self.note(build, "changes");
                    }
                    Ok(None) if last => return copy,
                    Ok(None) => break,
                    Err(status) => {
                        self.note(build, &passes(&status));
                        break;
                    }
                }
            }
        }
    }
}

fn any_event(request_id: &str, random: &mut Random) -> BillingEvent {
    BillingEvent {
        auth_id: format!("auth-{}", random.below(7)),
        model: ["acme/large", "acme/small"][random.below(2) as usize].into(),
        prompt_tokens: 100 + random.below(1_000) as i64,
        ..event(request_id, random.below(HOURS as u64) as i64)
    }
}
