//! The service is killed around COMMIT, again and again, while the sender ships: what was
//! committed is not stored again, and what was not is.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use super::producer::{Crowd, Manner};
use super::*;
use crate::events::Random;
use crate::proxy::{Deed, Proxy, Side, Spot};

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_commit_the_service_has_stored_each_event_once() {
    let seed = seed(20_261_122);
    let wanted = so_many(4, 200);
    let mut random = Random(seed);
    let mut scene = Scene::without_service(Stage::new().await).await;
    let mut sender = scene.place.start(&["--batch-size", "50"]).await;
    let manner = Manner { poison_every: 50, ..Manner::default() };
    let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, manner);
    let mut kills = BTreeMap::<String, u32>::new();
    for _ in 0..wanted {
        let proxy = Proxy::to(&scene.stage.url).await;
        scene.serve_over(&proxy.url(&scene.stage.url)).await;
        let service = scene.service.as_mut().unwrap();
        let statement = if random.below(4) == 0 { "INSERT INTO billing_event" } else { "COMMIT" };
        let side = [Side::Before, Side::During, Side::After][random.below(3) as usize];
        let nth = 1 + random.below(3) as u32;
        proxy.strike(Spot { statement, nth, side }, Deed::Kill(service.pid()));
        let status = service.wait(SOON).await;
        assert_eq!(status.code(), None, "killed, and not ended by itself, seed {seed}");
        *kills.entry(format!("{side:?} {statement}")).or_default() += 1;
    }
    scene.serve().await;
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("{wanted} kills of the service, {figures}, seed {seed}: {kills:?}");
}
