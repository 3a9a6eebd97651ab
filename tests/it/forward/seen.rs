//! What can be seen of the spool and the sender: by `rater events status`, in the metrics and in
//! the log, in good times and in bad ones.

use nix::sys::signal::Signal;

use super::account::{any_event, line, poison};
use super::producer::{Answer, Connection};
use super::sender::number;
use super::*;
use crate::events::Random;
use crate::harness::{Process, field};
use crate::rig::http_get;
use crate::stage::until;

/// Sends so many events and waits for their acknowledgement.
async fn send(scene: &Scene, random: &mut Random, name: &str, events: u64, poisons: u64) {
    let mut connection = Connection::open(&scene.place.socket).await.unwrap();
    let mut text = String::new();
    for n in 0..events {
        let key = format!("{name}-{n}");
        let mut event = if n < poisons { poison(random, &key) } else { any_event(random, &key) };
        // One without a time has a line of its own in the log.
        event.event_time.get_or_insert_default();
        scene.account.sends(&event);
        scene.account.acknowledged(&event.adapter);
        text += &line(&event);
    }
    connection.write(text.as_bytes()).await.unwrap();
    while connection.answer().await.unwrap().unwrap() != Answer::UpTo(events) {}
}

/// A series of the sender's metrics; 0 where it has none yet.
async fn metric(sender: &Process, series: &str) -> f64 {
    let listening = sender.logs().into_iter().find(|line| *field(line, "message") == "listening").unwrap();
    let address = field(&listening, "admin_address").as_str().unwrap().to_string();
    let text = http_get(&address, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The log's lines but the first ones, as level and message.
fn said(sender: &Process) -> Vec<String> {
    let logs = sender.logs().into_iter();
    let lines = logs.skip_while(|line| *field(line, "message") != "listening").skip(1);
    lines.map(|line| format!("{} {}", field(&line, "level"), field(&line, "message"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn good_and_bad_times_are_seen_in_the_status_the_metrics_and_one_line_of_the_log() {
    let mut random = Random(20_261_137);
    let mut scene = Scene::new().await;
    // Without the wire: where no service is, a connection is refused.
    scene.place.server = scene.service.as_ref().unwrap().url();
    let mut sender = scene
        .place
        .start(&["--admin-listen", "127.0.0.1:0", "--alert-age", "1s", "--batch-size", "10"])
        .await;

    // Good.
    send(&scene, &mut random, "good", 25, 0).await;
    until("they are shipped", SOON, async || {
        let (status, _) = scene.place.status();
        number(&status, "events") == 0 && number(&status["shipped"], "stored") == 25
    })
    .await;
    let (status, output) = scene.place.status();
    assert_eq!((output.code(), output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert_eq!(status["running"], true, "{status}");
    for none in ["bytes", "dead_lettered", "dead_letters", "damaged_ranges", "missing_records", "retried"] {
        assert_eq!(number(&status, none), 0, "{none} of {status}");
    }
    assert!(status["last_shipped_at"].is_string(), "{status}");
    assert_eq!(metric(&sender, "rater_spool_events").await, 0.0);
    assert_eq!(metric(&sender, "rater_forwarded_events_total{outcome=\"stored\"}").await, 25.0);
    assert!(metric(&sender, "rater_forward_last_success_timestamp_seconds").await > 1.7e9);
    assert_eq!(said(&sender), Vec::<String>::new(), "nothing to tell");

    // Bad.
    let address = scene.service.take().unwrap().address().to_string();
    send(&scene, &mut random, "bad", 30, 0).await;
    until("the oldest event is old", SOON, async || {
        let (status, _) = scene.place.status();
        status["oldest_age_seconds"].as_f64().is_some_and(|age| age > 1.5) && number(&status, "retried") >= 3
    })
    .await;
    let (status, output) = scene.place.status();
    assert_eq!(number(&status, "events"), 30);
    assert!(
        number(&status, "bytes") > 0 && status["last_error"].to_string().contains("UNAVAILABLE"),
        "{status}"
    );
    assert_eq!(output.code(), Some(1), "{output:?}");
    assert!(!output.stderr.is_empty());
    assert_eq!(metric(&sender, "rater_spool_events").await, 30.0);
    assert!(metric(&sender, "rater_spool_bytes").await > 0.0);
    assert!(metric(&sender, "rater_spool_oldest_event_age_seconds").await > 1.0);
    assert!(metric(&sender, "rater_forward_retries_total{code=\"UNAVAILABLE\"}").await >= 3.0);
    assert!(
        metric(&sender, "rater_forward_last_error_timestamp_seconds{code=\"UNAVAILABLE\"}").await > 1.7e9
    );
    until("its age is told", SOON, async || said(&sender).len() >= 2).await;
    let bad = said(&sender);
    println!("bad times: {bad:#?}");
    assert_eq!(bad.len(), 2, "one line that nothing is shipped, and one of the oldest event's age");
    assert!(bad.iter().all(|line| line.starts_with("\"WARN\"") || line.starts_with("\"ERROR\"")), "{bad:?}");

    // Good again.
    let book = scene.stage.pricebook();
    let service = Service::start_at(&address, &scene.stage.url, &["--pricebook", &book]).await;
    scene.service = Some(service);
    until("they are shipped", SOON, async || number(&scene.place.status().0, "events") == 0).await;
    until("that is told", SOON, async || said(&sender).len() >= 4).await;
    let good = said(&sender).split_off(2);
    println!("good again: {good:#?}");
    assert!(good.len() == 2 && good.iter().all(|line| line.starts_with("\"INFO\"")), "{good:?}");

    // Dead letters.
    send(&scene, &mut random, "dead", 20, 3).await;
    until("they are set aside", SOON, async || number(&scene.place.status().0, "dead_letters") == 3).await;
    let letters = || said(&sender).iter().filter(|line| line.contains("there are dead letters")).count();
    until("that is told", SOON, async || letters() > 0).await;
    send(&scene, &mut random, "more", 20, 3).await;
    until("they are set aside", SOON, async || number(&scene.place.status().0, "dead_letters") == 6).await;
    until("the metrics tell it", SOON, async || metric(&sender, "rater_dead_letters").await == 6.0).await;
    assert_eq!(metric(&sender, "rater_forwarded_events_total{outcome=\"dead_lettered\"}").await, 6.0);
    assert_eq!(letters(), 1, "once, however many there are");
    println!("dead letters: {:#?}", said(&sender).split_off(4));

    // The same is told when it does not run.
    sender.signal(Signal::SIGTERM);
    assert_eq!(sender.wait(SOON).await.code(), Some(0), "{:#?}", sender.logs());
    let (status, _) = scene.place.status();
    assert_eq!((status["running"].as_bool(), number(&status, "events")), (Some(false), 0));
    assert_eq!(number(&status["shipped"], "stored"), 25 + 30 + 17 + 17);
    assert_eq!((number(&status, "dead_lettered"), number(&status, "dead_letters")), (6, 6));
    scene.settle().await;
}
