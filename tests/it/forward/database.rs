//! The database is stopped without a goodbye (`pg_ctl -m immediate`), again and again, under load.

use nix::sys::signal::Signal;

use super::producer::{Crowd, Manner};
use super::*;
use crate::events::Random;
use crate::faults::Server;
use crate::stage::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_stopped_at_once_under_load_loses_and_doubles_nothing() {
    let seed = seed(20_261_124);
    let wanted = so_many(2, 50);
    let mut random = Random(seed);
    let mut server = Server::start().await;
    let stage = Stage::over(&server.url());
    let pricebook = stage.pricebook();
    let service = Service::start(&stage.url, &["--pricebook", &pricebook, "--migrate"]).await;
    let mut scene = Scene::without_service(stage).await;
    scene.wire.lead_to(Some(service.address()));
    scene.service = Some(service);
    let mut sender = scene.place.start(&["--batch-size", "100"]).await;
    let manner = Manner { poison_every: 60, ..Manner::default() };
    let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, manner);
    for stop in 0..wanted {
        let before = scene.stored().await;
        // It does work again, and then a moment more.
        let some = 1 + random.below(300) as i64;
        until("events are stored", SOON, async || scene.stored().await >= before + some).await;
        server.crash().await;
        let acknowledged = scene.account.count(account::Fate::Acknowledged);
        let more = async || scene.account.count(account::Fate::Acknowledged) > acknowledged;
        until("producers are served without it", SOON, more).await;
        server.start_again().await;
        assert!(sender.ended().is_none(), "after stop {stop}: {:#?}", sender.logs());
    }
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("{wanted} stops of the database, {figures}, seed {seed}");
    scene.unserve();
    server.stop().await;
}
