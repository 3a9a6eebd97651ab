//! A database that was restored from a backup is fed again from what the spool kept, exactly.

use std::collections::HashMap;

use rater::proto::BillingEvent;

use super::account::{any_event, line, poison, stored};
use super::sender::number;
use super::*;
use crate::events::Random;
use crate::harness::{Output, run};

impl Scene {
    async fn resend(&self, arguments: &[&str]) -> Output {
        let (server, spool) = (self.place.server.clone(), self.place.spool.to_str().unwrap().to_string());
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
        let work = move || {
            let more: Vec<&str> = arguments.iter().map(String::as_str).collect();
            run(&server, &[&["events", "resend", "--spool", &spool, "-o", "json"], &more[..]].concat())
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_feeds_a_restored_database_exactly() {
    let seed = seed(20_261_132);
    let events = so_many(1_500, 200_000);
    let mut random = Random(seed);
    let scene = Scene::new().await;
    // In two goes, in several segments.
    for half in 0..2 {
        let mut text = String::new();
        for n in 0..events / 2 {
            let key = format!("kept-{half}-{n}");
            let event = match n % 100 {
                7 => poison(&mut random, &key),
                _ => any_event(&mut random, &key),
            };
            scene.account.sends(&event);
            scene.account.acknowledged(&event.adapter);
            text += &line(&event);
        }
        let place = scene.place.clone();
        let arguments = ["-", "--retain", "1h", "--segment-bytes", "65536", "--batch-size", "200"];
        let output = tokio::task::spawn_blocking(move || place.forward(&arguments, &text)).await.unwrap();
        assert_eq!(output.code(), Some(1), "letters were made: {output:?}");
    }
    let first = scene.account.settle(&scene.stage.pool, &scene.place.spool).await;
    let before = by_key(stored(&scene.stage.pool).await);

    // The backup had some of them, or none.
    for lost in ["hashtext(request_id) % 3 = 0", "true"] {
        scene.stage.sql(&format!("DELETE FROM billing_event WHERE {lost}")).await;
        let there = scene.stored().await as u64;
        let output = scene.resend(&[]).await;
        assert!(matches!(output.code(), Some(0 | 1)), "{output:?}");
        let totals: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(number(&totals, "stored"), first.stored as u64 - there, "{totals}");
        assert_eq!(number(&totals, "duplicates"), there, "{totals}");
        let again = scene.account.settle(&scene.stage.pool, &scene.place.spool).await;
        assert_eq!(again, first);
        assert!(before == by_key(stored(&scene.stage.pool).await), "the content is the same");
    }
    // And nothing of it twice, or from before its time.
    let output = scene.resend(&[]).await;
    let totals: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((number(&totals, "stored"), number(&totals, "duplicates")), (0, first.stored as u64));
    let output = scene.resend(&["--since", "2999-01-01T00:00:00Z"]).await;
    let totals: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((number(&totals, "stored"), number(&totals, "duplicates")), (0, 0), "{output:?}");
    println!("fed again: {first}, seed {seed}");
}

fn by_key(events: Vec<BillingEvent>) -> HashMap<String, BillingEvent> {
    events.into_iter().map(|event| (event.adapter.clone(), event)).collect()
}
