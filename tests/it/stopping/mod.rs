//! SIGTERM: not ready at once, no new calls, what is in flight ends and is answered, streams end
//! where they can be gone on with, and the process is gone within its grace. When it is not, or is
//! told again, it stops hard, and nothing is lost by that either.

mod hard;
mod held;
mod load;
mod order;

use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::events::Random;
use crate::harness::soak;
use crate::stage::{Stage, assert_no_panic, rate, window};
use load::{HOURS, Load};

/// What `--shutdown-grace` is by default.
const GRACE: Duration = Duration::from_secs(30);

fn seed() -> u64 {
    let given = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_micros() as u64 % 1_000_000_007
    });
    println!("RATER_SEED={seed}");
    seed
}

/// Again and again, under every kind of call: each that was accepted is answered, and stands in the
/// database once; each that was not left nothing; every stream goes on where it ended.
#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_lose_no_call_and_answer_none_twice() {
    let rounds = if soak() { 100 } else { 5 };
    let mut random = Random(seed());
    let stage = Stage::new().await;
    let mut load = Load::default();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let mut service = stage.service(&["--chunk-hours", "2", "--max-calls-per-second", "0"]).await;
        let running = load.begin(&service, round).await;
        running.until_busy().await;
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        service.signal(Signal::SIGTERM);
        let told = Instant::now();
        let status = service.wait(GRACE).await;
        longest = longest.max(told.elapsed());
        assert_eq!(status.code(), Some(0), "round {round}: {:#?}", service.logs());
        load.end(running).await;
        load.holds(&stage, round).await;
        assert_no_panic(&service);
    }
    // What was not answered is asked again, and changes nothing that was.
    let service = stage.service(&["--max-calls-per-second", "0"]).await;
    load.repeat(&service).await;
    crate::stage::rate_until_done(&service, window(0, HOURS), GRACE).await;
    rate(&service, window(0, HOURS)).await.unwrap();
    load.is_complete(&stage, &service).await;
    assert_eq!((stage.mismatches().await, stage.feed_faults().await), (0, 0));
    println!("{rounds} stops: {load}; gone after {longest:.1?} at most");
}
