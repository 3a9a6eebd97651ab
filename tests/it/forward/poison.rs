//! Poison events, in every tenth batch: exactly these become letters, and the rest is stored.

use super::account::{any_event, line, poison};
use super::letters::letters;
use super::*;
use crate::events::Random;

#[tokio::test(flavor = "multi_thread")]
async fn of_a_poison_event_in_every_tenth_batch_exactly_these_become_letters() {
    const BATCH: usize = 50;
    let seed = seed(20_261_125);
    let batches = so_many(60, 2_000) as usize;
    let mut random = Random(seed);
    let scene = Scene::new().await;
    let (mut text, mut poisons) = (String::new(), 0);
    for n in 0..batches * BATCH {
        // Somewhere in the batch.
        let event = if n % (10 * BATCH) == 9 * BATCH + (n / BATCH) % BATCH {
            poisons += 1;
            poison(&mut random, &format!("p-{n}"))
        } else {
            any_event(&mut random, &format!("p-{n}"))
        };
        scene.account.sends(&event);
        scene.account.acknowledged(&event.adapter);
        text += &line(&event);
    }
    let place = scene.place.clone();
    let arguments = ["-", "--batch-size", "50"];
    let output = tokio::task::spawn_blocking(move || place.forward(&arguments, &text)).await.unwrap();
    assert_eq!(output.code(), Some(1), "letters were made: {output:?}");
    let figures = scene.settle().await;
    assert_eq!((figures.letters, poisons), (batches / 10, batches / 10));
    assert_eq!(figures.stored, batches * BATCH - poisons);
    assert!(letters(&scene.place.spool).iter().all(|letter| letter.tries == 1));
    println!("{batches} batches, {figures}, seed {seed}");
}
