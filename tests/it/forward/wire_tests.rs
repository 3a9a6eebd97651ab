//! The wire itself, before anything is proved with it.

use rater::proto::RecordEventsRequest;
use rater::proto::event_service_client::EventServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Toward, Wire};
use super::*;
use crate::stage::event;

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_catches_a_request_before_it_arrives_and_a_response_before_it_is_heard() {
    let scene = Scene::new().await;
    let record = |name: &str| {
        let request = RecordEventsRequest { events: vec![event(name, 1)], skip_invalid: true };
        let server = scene.place.server.clone();
        tokio::spawn(async move {
            let mut client = EventServiceClient::connect(server).await.unwrap();
            client.record_events(request).await
        })
    };
    for (toward, stored_when_caught) in [(Toward::Server, 0), (Toward::Client, 1)] {
        for passed in [true, false] {
            let name = format!("{toward:?}-{passed}");
            let trap = scene.wire.catch(toward);
            let call = record(&name);
            let caught = trap.await.unwrap();
            let count = format!("SELECT count(*) FROM billing_event WHERE request_id = '{name}'");
            assert_eq!(scene.stage.number(&count).await, stored_when_caught, "{name}");
            if passed {
                caught.pass();
                assert_eq!(call.await.unwrap().unwrap().into_inner().stored, 1);
            } else {
                drop(caught);
                call.await.unwrap().unwrap_err();
                assert_eq!(scene.stage.number(&count).await, stored_when_caught, "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_cuts_in_both_directions_at_a_byte_and_otherwise_passes_all() {
    let dir = temp_dir();
    let (path, behind) = (dir.path().join("wire"), dir.path().join("echo"));
    let listener = UnixListener::bind(&behind).unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = client.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    let wire = Wire::unix(&path, &behind).await;
    let echo = async || {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        drop(stream.write_all(&[7; 1_000]).await);
        drop(stream.shutdown().await);
        let mut back = Vec::new();
        drop(stream.read_to_end(&mut back).await);
        back.len()
    };
    assert_eq!(echo().await, 1_000);
    wire.cut_within(3, 900, 900);
    let mut came = Vec::new();
    for _ in 0..40 {
        came.push(echo().await);
    }
    let cuts = wire.cuts();
    assert!(cuts[0] + cuts[1] == 40 && cuts.iter().all(|cuts| *cuts > 5), "{cuts:?}");
    assert!(came.iter().all(|came| *came < 900), "{came:?}");
    wire.hold();
    assert_eq!(echo().await, 1_000);
}
