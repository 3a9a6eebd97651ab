//! The whole of a rollout and of the way back, under load.

use std::sync::Arc;
use std::time::Instant;

use super::fleet::Fleet;
use super::load::{HOURS, Load};
use super::{BUILDS, Build, Site};
use crate::changes::table;
use crate::harness::soak;

/// A request id that stands for two runs.
const TWICE: &str = "SELECT count(*) FROM (SELECT FROM rating_run
    GROUP BY requested_by, request_id HAVING request_id IS NOT NULL AND count(*) > 1) twice";

/// `RATER_SEED` repeats it, as far as the load goes.
#[tokio::test(flavor = "multi_thread")]
async fn while_one_build_takes_the_others_place_and_back_nothing_is_lost_billed_twice_or_unseen() {
    let Some(site) = Site::old("a rollout under load").await else { return };
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_201);
    let (rounds, more) = if soak() { (20, 40) } else { (1, 4) };
    let (fleet, began) = (Arc::new(Fleet::default()), Instant::now());
    fleet.take_in(Build::Old, site.serve(Build::Old).await);
    fleet.take_in(Build::Old, site.serve(Build::Old).await);
    let mut load = Load::begin(&fleet, seed);
    load.goes_on(&[Build::Old], more).await;
    let migrates = Instant::now();
    tokio::task::block_in_place(|| site.did(Build::New, &["migrate", "up"]));
    let migrated = migrates.elapsed();
    for _ in 0..rounds {
        round(&site, &fleet, &load, more).await;
    }
    let events = load.stop().await;
    fleet.drain(Build::Old).await;

    let services = [site.serve(Build::Old).await, site.serve(Build::New).await];
    site.agree([&services[0], &services[1]], HOURS).await;
    assert_eq!(site.stage.number("SELECT count(*) FROM billing_event").await, events, "each event once");
    assert_eq!(site.stage.number(TWICE).await, 0, "each request id is one run");
    let tables = [
        table(&services[0].client_rating().await, &Default::default()).await,
        table(&services[1].client_rating().await, &Default::default()).await,
    ];
    assert_eq!(tables[0], tables[1], "both read the same");
    for (build, service) in BUILDS.into_iter().zip(services) {
        fleet.take_in(build, service);
    }
    let (copies, tally) = load.end().await;
    for copy in copies {
        assert_eq!(copy.0, tables[0], "each change once, in order, whoever told it");
    }
    let takeovers = fleet.takeovers();
    println!(
        "{rounds} rollouts and ways back in {:.1?}, seed {seed}: {events} events, {takeovers} takeovers, \
         `migrate up` under load {migrated:.2?}, a sender's longest wait {:.2?}, {:?}",
        began.elapsed(),
        tally.longest,
        tally.answers
    );
    for build in BUILDS {
        fleet.drain(build).await;
    }
    assert_eq!(site.stage.deadlocks().await, 0);
}

/// From the old build alone to the new one alone, and back; each kills one of each on the way.
async fn round(site: &Site, fleet: &Arc<Fleet>, load: &Load, more: u64) {
    use Build::{New, Old};
    load.goes_on(&[Old], more).await;
    fleet.take_in(New, site.serve(New).await);
    load.goes_on(&[Old, New], more).await;
    for build in BUILDS {
        fleet.kill(build).await;
        fleet.take_in(build.other(), site.serve(build.other()).await);
        fleet.take_in(build, site.serve(build).await);
        load.goes_on(&[Old, New], more).await;
    }
    fleet.drain(Old).await;
    load.goes_on(&[New], more).await;
    // And back.
    fleet.take_in(Old, site.serve(Old).await);
    fleet.take_in(Old, site.serve(Old).await);
    load.goes_on(&[Old, New], more).await;
    fleet.drain(New).await;
    load.goes_on(&[Old], more).await;
}
