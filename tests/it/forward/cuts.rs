//! Connections break at random bytes in both directions, between the producers and the sender and
//! between the sender and the service.

use nix::sys::signal::Signal;

use super::producer::{Crowd, Manner};
use super::*;
use crate::stage::until;

#[tokio::test(flavor = "multi_thread")]
async fn cut_at_any_byte_on_both_hops_nothing_is_lost_or_there_twice() {
    let seed = seed(20_261_123);
    let each = u64::from(so_many(25, 1_000));
    let scene = Scene::new().await;
    let mut sender = scene.place.start(&["--batch-size", "60"]).await;
    let path = scene.place.socket.with_extension("cut");
    let near = Wire::unix(&path, &scene.place.socket).await;
    // Some break in the first line, and some after many; an answer has about a dozen bytes.
    near.cut_within(seed, 20_000, 300);
    // A batch has about 15 kB, and an answer with what opens the connection about 300 bytes.
    scene.wire.cut_within(seed ^ 1, 40_000, 800);
    let manner = Manner { poison_every: 80, gives_up: 4, ..Manner::default() };
    let crowd = Crowd::on(&path, &scene.account, seed, manner);
    let many = |cuts: [u64; 2]| cuts[0] + cuts[1] >= each && cuts.iter().all(|cuts| *cuts >= each / 5);
    let within = SOON * so_many(1, 20);
    until("connections broke on the near hop", within, async || many(near.cuts())).await;
    // It has slowed down after so much trouble: more connections come at short intervals only
    // while some get through.
    until("connections broke on the far hop", within, async || many(scene.wire.cuts())).await;
    let cuts = (near.cuts(), scene.wire.cuts());
    near.hold();
    scene.wire.hold();
    crowd.end().await;
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let figures = scene.settle().await;
    println!(
        "connections cut (toward the server, back): producers' {:?}, the sender's {:?}; {figures}, seed {seed}",
        cuts.0, cuts.1
    );
}
