//! No event is lost on the way in: `rater events forward`, end to end, with a real service and a
//! real PostgreSQL. Whatever is killed, cut, stopped or full, every event that was acknowledged is
//! exactly once in `billing_event` or in the dead letters, and any other at most once.

mod account;
mod cuts;
mod database;
mod disk;
mod files;
mod input;
mod kills;
mod letters;
mod outages;
mod poison;
mod pressure;
mod producer;
mod resend;
mod seen;
mod sender;
mod service_kills;
mod stops;
mod wire;
mod wire_tests;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use self::account::{Account, Figures};
use self::sender::Place;
use self::wire::Wire;
use crate::harness::{Service, soak, temp_dir};
use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(60);

/// A database, a service over it, a wire to it, and a place for a sender.
struct Scene {
    // Before the database: fields drop in order.
    service: Option<Service>,
    wire: Wire,
    place: Place,
    account: Arc<Account>,
    stage: Stage,
    _dir: TempDir,
}

impl Scene {
    async fn new() -> Scene {
        Scene::over(Stage::new().await).await
    }

    /// With a service that is there.
    async fn over(stage: Stage) -> Scene {
        let mut scene = Scene::without_service(stage).await;
        scene.serve().await;
        scene
    }

    async fn without_service(stage: Stage) -> Scene {
        let (dir, wire) = (temp_dir(), Wire::tcp().await);
        let place = Place::below(dir.path(), &wire.url());
        Scene { service: None, wire, place, account: Arc::default(), stage, _dir: dir }
    }

    /// A new service; the wire leads to it.
    async fn serve(&mut self) {
        let url = self.stage.url.clone();
        self.serve_over(&url).await;
    }

    /// The same with another way to the database.
    async fn serve_over(&mut self, url: &str) {
        let service = self.stage.service_over(url, &[]).await;
        self.wire.lead_to(Some(service.address()));
        self.service = Some(service);
    }

    /// Nobody is behind the wire any more.
    fn unserve(&mut self) {
        self.wire.lead_to(None);
        self.wire.cut_all();
        self.service = None;
    }

    async fn stored(&self) -> i64 {
        self.stage.number("SELECT count(*) FROM billing_event").await
    }

    /// Ships what is left and holds what must hold.
    async fn settle(&self) -> Figures {
        self.place.drain().await;
        self.account.settle(&self.stage.pool, &self.place.spool).await
    }
}

/// The seed of this run, `RATER_SEED` or the usual one, which is printed first.
fn seed(usual: u64) -> u64 {
    let seed = std::env::var("RATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(usual);
    println!("to repeat it: RATER_SEED={seed}");
    seed
}

/// How many of something: a few, or as many as were promised.
fn so_many(few: u32, promised: u32) -> u32 {
    if soak() { promised } else { few }
}
