//! The service is not there yet, is stopped for a while, has no room, or hangs: producers are
//! served all the while, nothing becomes a dead letter, and nothing is lost.

use nix::sys::signal::Signal;
use rater::proto::RecordEventsRequest;
use tokio::task::JoinSet;
use tonic::Code;

use super::account::Fate;
use super::producer::{Crowd, Manner};
use super::sender::number;
use super::*;
use crate::harness::Process;
use crate::stage::{event, until};

/// A wire that leads nowhere takes a connection and drops it.
const AWAY: [&str; 2] = ["UNAVAILABLE", "CANCELLED"];

/// A scene with a sender and producers.
struct Running {
    scene: Scene,
    sender: Process,
    crowd: Crowd,
}

impl Running {
    async fn on(scene: Scene, seed: u64) -> Running {
        let sender = scene.place.start(&["--batch-size", "50"]).await;
        let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, Manner::default());
        Running { scene, sender, crowd }
    }

    /// Waits until producers have so many more answers.
    async fn served(&self, more: usize) {
        let before = self.scene.account.count(Fate::Acknowledged);
        let enough = async || self.scene.account.count(Fate::Acknowledged) >= before + more;
        until("producers are served", SOON, enough).await;
    }

    /// Waits until the spool waits for the service, and has told why.
    async fn in_trouble(&self, codes: &[&str]) {
        until("the status tells of it", SOON, async || {
            let (status, _) = self.scene.place.status();
            let error = status["last_error"].to_string();
            codes.iter().any(|code| error.contains(code)) && number(&status, "events") > 0
        })
        .await;
    }

    /// Waits until more is stored.
    async fn ships(&self) {
        let before = self.scene.stored().await;
        until("it ships", SOON, async || self.scene.stored().await > before).await;
    }

    async fn end(mut self) -> (Scene, Figures) {
        self.crowd.end().await;
        self.sender.signal(Signal::SIGTERM);
        assert_eq!(self.sender.wait(SOON).await.code(), Some(0), "{:#?}", self.sender.logs());
        let figures = self.scene.settle().await;
        assert_eq!(figures.letters, 0, "trouble makes no dead letter");
        assert_eq!(figures.stored, figures.acknowledged);
        (self.scene, figures)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_yet_or_for_a_while_makes_no_letter_and_loses_nothing() {
    let scene = Scene::without_service(Stage::new().await).await;
    let mut running = Running::on(scene, 20_261_126).await;
    running.served(200).await;
    running.scene.serve().await;
    running.ships().await;
    for _ in 0..so_many(1, 20) {
        running.scene.unserve();
        running.served(200).await;
        running.in_trouble(&AWAY).await;
        running.scene.serve().await;
        running.ships().await;
    }
    let (_, figures) = running.end().await;
    println!("away and back: {figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_room_makes_no_letter_and_loses_nothing() {
    let scene = Scene::new().await;
    let running = Running::on(scene, 20_261_127).await;
    running.ships().await;
    // Batches of others wait for the table, until no other one is let in.
    let scene = &running.scene;
    let mut hold = scene.stage.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE billing_event IN EXCLUSIVE MODE").execute(&mut *hold).await.unwrap();
    let client = scene.service.as_ref().unwrap().client_events().await;
    let mut others = JoinSet::new();
    for n in 0.. {
        let mut client = client.clone();
        let request =
            RecordEventsRequest { events: vec![event(&format!("other-{n}"), 1)], skip_invalid: false };
        others.spawn(async move { client.record_events(request).await.map_err(|status| status.code()) });
        let soon = Duration::from_millis(10);
        if let Ok(answer) = tokio::time::timeout(soon, others.join_next()).await {
            assert_eq!(answer.unwrap().unwrap().unwrap_err(), Code::ResourceExhausted);
            break;
        }
        assert!(n < 1_000, "it takes any number");
    }
    // The sender's own batch was among those that wait, or is refused as well: cut off, it
    // comes again and is.
    scene.wire.cut_all();
    running.served(200).await;
    running.in_trouble(&["RESOURCE_EXHAUSTED"]).await;
    hold.rollback().await.unwrap();
    while let Some(answer) = others.join_next().await {
        drop(answer.unwrap());
    }
    running.ships().await;
    running.scene.stage.sql("DELETE FROM billing_event WHERE request_id LIKE 'other-%'").await;
    let (_, figures) = running.end().await;
    println!("without room: {figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_makes_no_letter_and_loses_nothing() {
    let scene = Scene::new().await;
    let running = Running::on(scene, 20_261_128).await;
    running.ships().await;
    for _ in 0..so_many(2, 50) {
        let service = running.scene.service.as_ref().unwrap();
        service.signal(Signal::SIGSTOP);
        // Its spool grows meanwhile, and its producers do not notice.
        running.served(300).await;
        service.signal(Signal::SIGCONT);
        running.ships().await;
    }
    let (_, figures) = running.end().await;
    println!("hung: {figures}");
}
