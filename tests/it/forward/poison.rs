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

/// Which of the two came first is stored, and the other one is set aside: neither is lost.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_events_with_one_id_the_second_becomes_a_letter() {
    let mut random = Random(20_261_140);
    let scene = Scene::new().await;
    let mut text = String::new();
    for n in 0..30 {
        let first = any_event(&mut random, &format!("first-{n}"));
        let mut second = any_event(&mut random, &format!("second-{n}-EVENT_CONFLICT"));
        second.request_id = first.request_id.clone();
        // Again the same is no conflict.
        for event in [&first, &second, &first] {
            scene.account.sends(event);
            scene.account.acknowledged(&event.adapter);
            text += &line(event);
        }
    }
    let place = scene.place.clone();
    let arguments = ["-", "--batch-size", "7"];
    let output = tokio::task::spawn_blocking(move || place.forward(&arguments, &text)).await.unwrap();
    assert_eq!(output.code(), Some(1), "{output:?}");
    let figures = scene.settle().await;
    assert_eq!((figures.stored, figures.letters), (30, 30));
}

/// Past what one message may have, too: the batch is made smaller, and each event is judged.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_far_too_large_become_letters_and_hold_nothing_up() {
    let mut random = Random(20_261_141);
    let scene = Scene::new().await;
    let mut text = String::new();
    for n in 0..60 {
        let large = n % 3 > 0;
        let mut event = any_event(&mut random, &format!("{n}{}", if large { "-TOO_LONG" } else { "" }));
        if large {
            event.model = "large ".repeat(30_000);
        }
        scene.account.sends(&event);
        scene.account.acknowledged(&event.adapter);
        text += &line(&event);
    }
    let place = scene.place.clone();
    let output = tokio::task::spawn_blocking(move || place.forward(&["-"], &text)).await.unwrap();
    assert_eq!(output.code(), Some(1), "{output:?}");
    let figures = scene.settle().await;
    assert_eq!((figures.stored, figures.letters), (20, 40));
}
