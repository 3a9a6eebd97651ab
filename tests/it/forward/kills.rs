//! The sender is killed again and again: after bytes reached its socket, when a segment grows,
//! comes or goes, when an acknowledgement arrives, when a request or its response is on the way,
//! between letter and checkpoint, when the checkpoint moves, and at random moments.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::producer::{Crowd, Manner, Seen};
use super::wire::Toward;
use super::*;
use crate::events::Random;
use crate::harness::Process;

/// When the sender is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// A producer has written a piece of its lines.
    Written,
    /// A segment is longer than before: its frames are written, and perhaps not on disk.
    SegmentGrows,
    /// There is a new segment.
    SegmentBegins,
    /// A segment was shipped and is gone.
    SegmentGoes,
    /// A producer has an answer.
    Answered,
    /// A batch is on the way to the service; it arrives, or not.
    Request { arrives: bool },
    /// The service has stored a batch, and its answer is on the way; it arrives, or not.
    Response { arrives: bool },
    /// A dead letter is there; the checkpoint is not.
    Letter,
    /// The checkpoint was written.
    Checkpoint,
    /// So many microseconds after its start, which may be before it listens.
    After(u64),
}

const MOMENTS: [Moment; 11] = [
    Moment::Written,
    Moment::SegmentGrows,
    Moment::SegmentBegins,
    Moment::SegmentGoes,
    Moment::Answered,
    Moment::Request { arrives: true },
    Moment::Request { arrives: false },
    Moment::Response { arrives: true },
    Moment::Response { arrives: false },
    Moment::Letter,
    Moment::Checkpoint,
];

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Written => "lines written",
            Moment::SegmentGrows => "a segment grows",
            Moment::SegmentBegins => "a segment begins",
            Moment::SegmentGoes => "a segment goes",
            Moment::Answered => "an acknowledgement",
            Moment::Request { arrives: true } => "a request that arrives",
            Moment::Request { arrives: false } => "a request that is lost",
            Moment::Response { arrives: true } => "a response that arrives",
            Moment::Response { arrives: false } => "a response that is lost",
            Moment::Letter => "a letter",
            Moment::Checkpoint => "a checkpoint",
            Moment::After(_) => "at random",
        }
    }
}

/// Waits for the moment and kills the sender there; whether the moment came.
async fn strike(moment: Moment, sender: &Process, scene: &Scene, seen: &Arc<Seen>) -> bool {
    let pid = Pid::from_raw(sender.pid() as i32);
    let end = move || kill(pid, Signal::SIGKILL).unwrap();
    let toward = match moment {
        Moment::Request { .. } => Some(Toward::Server),
        Moment::Response { .. } => Some(Toward::Client),
        _ => None,
    };
    if let (Some(toward), Moment::Request { arrives } | Moment::Response { arrives }) = (toward, moment) {
        let caught = tokio::time::timeout(SOON, scene.wire.catch(toward)).await;
        if let (Moment::Response { arrives: true }, Ok(Ok(_))) = (moment, &caught) {
            // What it gets it may still begin to write down.
            caught.unwrap().unwrap().pass();
            end();
            return true;
        }
        end();
        let Ok(Ok(caught)) = caught else { return false };
        if arrives {
            caught.pass();
        }
        return true;
    }
    let (place, seen) = (scene.place.clone(), seen.clone());
    let look = move || -> (u64, Vec<(String, u64)>, Vec<u8>) {
        let names = |files: Vec<(String, u64)>| files.into_iter().map(|(name, _)| (name, 0)).collect();
        match moment {
            Moment::Written => (seen.written.load(Ordering::Acquire), vec![], vec![]),
            Moment::Answered => (seen.answered.load(Ordering::Acquire), vec![], vec![]),
            Moment::SegmentGrows => (0, place.segments(), vec![]),
            Moment::SegmentBegins | Moment::SegmentGoes => (0, names(place.segments()), vec![]),
            Moment::Letter => {
                (0, letters::names(&place.spool).into_iter().map(|name| (name, 0)).collect(), vec![])
            }
            Moment::Checkpoint => {
                (0, vec![], std::fs::read(place.spool.join("checkpoint")).unwrap_or_default())
            }
            _ => (0, vec![], vec![]),
        }
    };
    // In a thread: it looks as often as it can, and kills at once.
    let watch = move || {
        let begun = Instant::now();
        let mut before = look();
        loop {
            let now = look();
            let came = match moment {
                Moment::After(micros) => begun.elapsed() >= Duration::from_micros(micros),
                Moment::SegmentGrows => grew(&before.1, &now.1),
                Moment::SegmentBegins | Moment::Letter => new(&before.1, &now.1),
                Moment::SegmentGoes => new(&now.1, &before.1),
                _ => before != now,
            };
            if came || begun.elapsed() > SOON {
                end();
                return came;
            }
            before = now;
            std::thread::sleep(Duration::from_micros(20));
        }
    };
    tokio::task::spawn_blocking(watch).await.unwrap()
}

fn grew(before: &[(String, u64)], now: &[(String, u64)]) -> bool {
    now.iter().any(|(name, size)| before.iter().any(|(known, was)| known == name && was < size))
}

fn new(before: &[(String, u64)], now: &[(String, u64)]) -> bool {
    now.iter().any(|(name, _)| before.iter().all(|(known, _)| known != name))
}

/// `RATER_SEED` repeats it, as far as the machine does.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_sender_has_lost_nothing_that_it_acknowledged() {
    let seed = seed(20_261_121);
    let wanted = so_many(20, 500);
    let mut random = Random(seed);
    let scene = Scene::new().await;
    let manner = Manner { poison_every: 12, gives_up: 3, ..Manner::default() };
    let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, manner);
    let mut kills = BTreeMap::<&str, u32>::new();
    let mut moments = Vec::new();
    for n in 0..wanted {
        if moments.is_empty() {
            moments = MOMENTS.to_vec();
            random.shuffle(&mut moments);
        }
        // A third at random.
        let moment = match n % 3 {
            0 => Moment::After(random.below(250_000)),
            _ => moments.pop().unwrap(),
        };
        // Small segments and batches: there is more to do at each of them.
        let sender = scene.place.spawn(&["--segment-bytes", "65536", "--batch-size", "40"]);
        let came = strike(moment, &sender, &scene, &crowd.seen).await;
        assert!(came, "{moment:?} did not come, seed {seed}: {:#?}", sender.logs());
        let status = { sender }.wait(SOON).await;
        assert_eq!(status.code(), None, "killed, and not ended by itself; {moment:?}, seed {seed}");
        *kills.entry(moment.name()).or_default() += 1;
    }
    // The last one lives.
    let mut sender = scene.place.start(&[]).await;
    let connections = crowd.seen.connections.load(Ordering::Relaxed);
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("{wanted} kills of the sender, {connections} connections, {figures}, seed {seed}: {kills:?}");
}
