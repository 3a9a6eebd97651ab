//! Events over which the service fails, and a service that fails over whatever it is sent.

use super::*;

/// SplitMix64's highest bit.
fn coin(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 63 == 1
}

#[tokio::test]
async fn an_event_that_breaks_the_service_is_a_letter_once_others_were_stored_in_between() {
    // Two in a row are no proof for each other.
    let scene = Scene::new(breaks_over(&["r5", "r6", "r11"], |_| service::Error::Internal), 20).await;
    scene.ships(&ids(0..20)).await;
    scene.holds(&without(&ids(0..20), &["r5", "r6", "r11"]));
    let letters = ["r5", "r6", "r11"].map(|id| (id.to_owned(), "INTERNAL".to_owned()));
    assert_eq!(scene.letters(), letters.into());
    let alone = scene.service.calls().iter().filter(|size| **size == 1).count();
    assert!(alone >= 3 * (SUSPECT_AFTER + ALTERNATIONS * (TRIES + 1)), "{alone}");
}

#[tokio::test]
async fn a_good_event_is_no_letter_whichever_calls_the_service_fails_over() {
    // Every second one by chance, as where one of two instances is broken; and three of four in turn.
    let (mut state, mut turn) = (7, 0);
    let half: Judge = Box::new(move |_| coin(&mut state).then(defect));
    let most: Judge = Box::new(move |_| {
        turn += 1;
        (turn % 4 > 0).then(defect)
    });
    for (judge, events) in [(half, 1_000), (most, 100)] {
        let scene = Scene::new(judge, 1).await;
        scene.ships(&ids(0..events)).await;
        scene.holds(&ids(0..events));
        assert!(scene.letters().is_empty());
    }
}

#[tokio::test]
async fn an_event_that_is_taken_at_last_is_taken() {
    let mut alone = 0;
    let judge: Judge = Box::new(move |request| {
        alone += usize::from(request.events[0].request_id == "r0");
        let fails = request.events[0].request_id == "r0" && alone < SUSPECT_AFTER + ALTERNATIONS * TRIES;
        fails.then(defect)
    });
    let scene = Scene::new(judge, 1).await;
    scene.ships(&ids(0..9)).await;
    scene.holds(&ids(0..9));
    assert!(scene.letters().is_empty());
}

#[tokio::test]
async fn known_events_behind_a_suspect_are_passed_over() {
    let known = ids(1..2 * KNOWN + 50);
    let judge: Judge = Box::new(move |request| match &request.events[0].request_id {
        id if id == "r0" => Some(defect()),
        id if known.contains(id) => {
            let duplicates = i64::try_from(request.events.len()).expect("few");
            Some(Does::Says(RecordEventsResponse { duplicates, ..RecordEventsResponse::default() }))
        }
        _ => None,
    });
    let scene = Scene::new(judge, 1).await;
    scene.ships(&ids(0..2 * KNOWN + 53)).await;
    assert_eq!(scene.letters(), [("r0".to_owned(), "INTERNAL".to_owned())].into());
}

#[tokio::test]
async fn an_event_that_breaks_the_service_is_no_letter_without_such_a_proof() {
    // Nothing comes after it.
    let scene = Scene::new(breaks_over(&["r2"], |_| service::Error::Internal), 3).await;
    let shipping = scene.shipper(encoded(&ids(0..3))).run();
    assert!(
        tokio::time::timeout(Duration::from_millis(500), shipping).await.is_err(),
        "it is tried for ever"
    );
    assert!(scene.service.calls().len() > 10 && scene.letters().is_empty());
    assert_eq!(*scene.done.lock().expect("done"), [(1, 0), (1, 0)]);
    // What comes after it is known already, which a service that stores nothing can say, too.
    let known: Judge = Box::new(|request| match request.events[0].request_id.as_str() {
        "r0" => Some(defect()),
        _ => Some(Does::Says(RecordEventsResponse { duplicates: 1, ..RecordEventsResponse::default() })),
    });
    let scene = Scene::new(known, 1).await;
    let shipping = scene.shipper(encoded(&ids(0..3))).run();
    assert!(
        tokio::time::timeout(Duration::from_millis(500), shipping).await.is_err(),
        "it is tried for ever"
    );
    assert!(scene.letters().is_empty());
}

#[tokio::test]
async fn a_service_that_fails_over_everything_makes_no_letters() {
    let scene = Scene::new(script((0..200).map(|_| defect()).collect()), 8).await;
    scene.ships(&ids(0..20)).await;
    scene.holds(&ids(0..20));
    assert!(scene.letters().is_empty());
    // One that mends itself at the worst moment: three failures, a probe that is stored, and then
    // it takes the suspect, too.
    let mut calls = 0;
    let mends: Judge = Box::new(move |_| {
        calls += 1;
        (calls <= 3).then(defect)
    });
    let scene = Scene::new(mends, 1).await;
    scene.ships(&ids(0..2)).await;
    scene.holds(&ids(0..2));
    assert!(scene.letters().is_empty());
}
