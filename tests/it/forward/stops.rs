//! A stop at any moment is a quick and clean one: what was acknowledged stays in the spool, and
//! the next start ships it. A spool has one sender at a time.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::producer::{Crowd, Manner};
use super::*;
use crate::events::Random;
use crate::harness::run_in;

/// What a stop may take: the batch in flight, and the answers.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_any_moment_it_ends_in_time_and_the_next_start_ships_the_rest() {
    let seed = seed(20_261_129);
    let wanted = so_many(5, 200);
    let mut random = Random(seed);
    let mut scene = Scene::new().await;
    let manner = Manner { poison_every: 20, gives_up: 4, ..Manner::default() };
    let crowd = Crowd::on(&scene.place.socket, &scene.account, seed, manner);
    let mut slowest = Duration::ZERO;
    for _ in 0..wanted {
        let away = random.below(3) == 0;
        if away {
            scene.wire.lead_to(None);
            scene.wire.cut_all();
        }
        let mut sender = scene.place.start(&["--batch-size", "30"]).await;
        tokio::time::sleep(Duration::from_micros(random.below(400_000))).await;
        sender.signal(Signal::SIGTERM);
        let told = Instant::now();
        let status = sender.wait(GRACE).await;
        slowest = slowest.max(told.elapsed());
        assert_eq!(status.code(), Some(0), "seed {seed}: {:#?}", sender.logs());
        if away {
            scene.serve().await;
        }
    }
    let mut sender = scene.place.start(&[]).await;
    crowd.end().await;
    sender.signal(Signal::SIGINT);
    assert_eq!(sender.wait(GRACE).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!("{wanted} stops, the slowest {slowest:?}, {figures}, seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sender_on_a_spool_is_refused_in_a_clear_line_and_does_no_harm() {
    let scene = Scene::new().await;
    let sender = scene.place.start(&[]).await;
    let crowd = Crowd::on(&scene.place.socket, &scene.account, 5, Manner::default());
    let spool = scene.place.spool.to_str().unwrap();
    let second = scene.place.socket.with_extension("second");
    for more in [
        &["--listen-socket", second.to_str().unwrap()][..],
        &["--listen-socket", scene.place.socket.to_str().unwrap()],
        &[],
    ] {
        let arguments = [&["events", "forward", "--spool", spool], more].concat();
        let output = run_in(&[("RATER_SERVER", &scene.place.server)], &arguments, "");
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{output:?}");
        let said: Vec<&str> = output.stderr.lines().collect();
        assert!(said.len() == 1 && said[0].contains("in use"), "{said:?}");
        assert!(!said[0].starts_with('{'), "for a person: {said:?}");
    }
    assert!(!second.exists());
    crowd.end().await;
    drop(sender);
    let figures = scene.settle().await;
    assert_eq!(figures.stored, figures.sent);
}
