//! A file as input, with the sender killed while it reads and ships: nothing of it counts as taken
//! before the command has ended well, and giving it again stores nothing twice.

use std::collections::BTreeMap;

use super::account::{any_event, line, poison};
use super::sender::number;
use super::*;
use crate::events::Random;
use crate::harness::Process;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_given_again_after_every_kill_is_stored_exactly_once() {
    let seed = seed(20_261_138);
    let kills = so_many(5, 100);
    let mut random = Random(seed);
    let scene = Scene::new().await;
    let (mut text, mut events) = (String::new(), Vec::new());
    for n in 0..1_000 {
        let key = format!("file-{n}");
        let event = if n % 40 == 3 { poison(&mut random, &key) } else { any_event(&mut random, &key) };
        text += &line(&event);
        events.push(event);
    }
    let file = scene.place.spool.with_extension("ndjson");
    std::fs::write(&file, &text).unwrap();
    let mut after = BTreeMap::<&str, u32>::new();
    let again = || events.iter().for_each(|event| scene.account.sends(event));
    for _ in 0..kills {
        again();
        let mut command = scene.place.command();
        command.arg(&file).args(["--segment-bytes", "65536", "--batch-size", "100"]);
        let mut sender = Process::spawn(command);
        tokio::time::sleep(Duration::from_micros(random.below(600_000))).await;
        sender.kill();
        let ended = sender.wait(SOON).await.code();
        *after.entry(if ended.is_none() { "killed" } else { "had ended" }).or_default() += 1;
    }
    again();
    let (place, name) = (scene.place.clone(), file.to_str().unwrap().to_string());
    let output = tokio::task::spawn_blocking(move || place.forward(&[&name], "")).await.unwrap();
    assert_eq!(output.code(), Some(1), "letters were made: {output:?}");
    let totals: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((number(&totals, "spooled"), number(&totals, "left")), (1_000, 0), "{totals}");
    scene.account.acknowledge_all();
    let figures = scene.settle().await;
    assert_eq!((figures.stored, figures.letters), (975, 25));
    println!("a file, {kills} times: {after:?}, {totals}, {figures}, seed {seed}");
}
