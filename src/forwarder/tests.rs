//! The library, as its documentation says.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::grpc::client::scripted::{Does, serve};

fn events(range: std::ops::Range<usize>) -> Vec<BillingEvent> {
    range.map(|n| BillingEvent { request_id: format!("r{n}"), ..BillingEvent::default() }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_shipped_in_this_life_or_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = serve(vec![], 0).await;
    let options = Options { batch_size: 10, ..Options::default() };
    // In this one nobody ships.
    let (forwarder, shipping) =
        Forwarder::open(folder.path(), &service.server(), options.clone()).await.expect("a spool");
    forwarder.append(events(0..25)).await.expect("room");
    let stop = CancellationToken::new();
    stop.cancel();
    let seen = shipping.run(stop).await;
    assert_eq!((seen.depth.events, service.calls().len()), (25, 0));
    drop(forwarder);
    let (forwarder, shipping) =
        Forwarder::open(folder.path(), &service.server(), options).await.expect("it was let go");
    assert_eq!(forwarder.seen().depth.events, 25);
    let shipping = tokio::spawn(shipping.run(CancellationToken::new()));
    forwarder.append_json(br#"{"requestId":"r25"}"#).await.expect("room");
    forwarder.close();
    let seen = shipping.await.expect("no panic");
    assert_eq!((seen.depth.events, seen.counts.spooled, seen.counts.stored), (0, 1, 26));
    assert_eq!((seen.ever.spooled, seen.ever.stored), (26, 26));
    assert_eq!(service.stored().len(), 26);
    let error = forwarder.append(events(0..1)).await.expect_err("closed");
    assert_eq!((error.word(), forwarder.seen().refused["STOPPING"]), (Word::Stopping, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_all_or_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server { url: "http://127.0.0.1:1".into(), ..Server::default() };
    let small = spool::Options { max_bytes: 64 * 1024, ..spool::Options::default() };
    let options = Options { spool: small, ..Options::default() };
    let (forwarder, _shipping) = Forwarder::open(folder.path(), &server, options).await.expect("a spool");
    let mut large = events(0..3);
    large[1].model = "m".repeat(MAX_EVENT_BYTES);
    assert_eq!(forwarder.append(large).await.expect_err("too long").word(), Word::LineTooLong);
    assert_eq!(forwarder.append_json(b"{").await.expect_err("no event").word(), Word::NotAnEvent);
    assert_eq!(forwarder.append(events(0..5_000)).await.expect_err("too many").word(), Word::SpoolFull);
    assert_eq!(forwarder.seen().depth.events, 0);
    forwarder.append(vec![]).await.expect("nothing");
    forwarder.append(events(0..10)).await.expect("room");
    // As many of the first as there is room for.
    let payloads: Vec<Vec<u8>> = events(10..5_010).iter().map(Message::encode_to_vec).collect();
    let (taken, error) = forwarder.take_some(&payloads, false).await.expect_err("full");
    assert_eq!(error.word(), Word::SpoolFull);
    assert!(taken > 1_000 && forwarder.seen().depth.events == 10 + taken as u64, "{taken}");
    // One that would not fit into an empty spool is not to be waited for.
    let huge = BillingEvent { model: "m".repeat(100_000), ..BillingEvent::default() };
    let (_, error) = forwarder.take_some(&[huge.encode_to_vec()], false).await.expect_err("too long");
    assert_eq!(error.word(), Word::LineTooLong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_later_is_no_error_and_a_url_that_is_none_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let service = serve((0..3).map(|_| Does::Code("UNAVAILABLE", None)).collect(), 2).await;
    let (forwarder, shipping) =
        Forwarder::open(folder.path(), &service.server(), Options::default()).await.expect("a spool");
    forwarder.append(events(0..3)).await.expect("room");
    forwarder.close();
    let seen = shipping.run(CancellationToken::new()).await;
    assert_eq!((seen.counts.stored, seen.counts.retried >= 5), (3, true));
    drop(forwarder);
    let nonsense = Server { url: "localhost".into(), ..Server::default() };
    let error = Forwarder::open(folder.path(), &nonsense, Options::default()).await.expect_err("no URL");
    assert!(error.to_string().contains("begins with neither"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_writer_of_letters_left_is_cleared_away_when_it_is_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let letters = folder.path().join("dead-letters");
    std::fs::create_dir(&letters).expect("a folder");
    let [old, young] = [".old.tmp", ".young.tmp"].map(|name| letters.join(name));
    for (path, hours) in [(&old, 2), (&young, 0)] {
        let file = std::fs::File::create(path).expect("a file");
        let when = std::time::SystemTime::now() - Duration::from_secs(hours * 3_600);
        file.set_modified(when).expect("a time");
    }
    let server = Server { url: "http://127.0.0.1:1".into(), ..Server::default() };
    let opened = Forwarder::open(folder.path(), &server, Options::default()).await.expect("a spool");
    assert!(!old.exists() && young.exists());
    drop(opened);
}
