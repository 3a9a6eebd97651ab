//! Every change is a line, once.

use std::io::Read;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::*;
use crate::harness::{Service, event};
use crate::proxy::{Deed, Proxy, Side, Spot};
use crate::rig::{backfill, dearer, eventually, hour, routine};

fn kill_with(child: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Events of two customers in two hours, rated.
async fn rated(rig: &Rig) {
    rig.insert([
        event("r1").auth("acme"),
        event("r2").auth("acme").tokens(100, 40, 10).at(&hour(11)),
        event("r3").auth("globex").model("acme/small"),
        event("r4").auth("globex").resource("other").tokens(7, 0, 3),
    ])
    .await;
    rig.rated(backfill(10, 12)).await;
}

#[tokio::test]
async fn what_is_inserted_updated_and_deleted_is_a_line_each_and_the_totals_are_those_of_rated_usage() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.number("SELECT count(*) FROM ledger_line WHERE kind = 'usage'").await, 4);
    ledger.assert_equals(&rig).await;

    // A late event, and one of an hour that had none.
    rig.insert([event("late").auth("acme"), event("new").auth("initech").at(&hour(9))]).await;
    rig.rated(routine(9, 12)).await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, 6);
    ledger.assert_equals(&rig).await;

    // A price fix, of every rollup of the large model.
    rig.reload(&dearer()).await;
    rig.rated(backfill(9, 12)).await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, 10);
    ledger.assert_equals(&rig).await;

    // Some shrink, and some vanish.
    rig.sql("DELETE FROM billing_event WHERE request_id IN ('late', 'r3', 'r4')").await;
    rig.rated(routine(9, 12)).await;
    ledger.catch_up(&rig).await;
    let negative = "SELECT concat_ws(' ', auth_id, event_count, trim_scale(amount), kind) FROM ledger_line
        WHERE amount < 0 ORDER BY 1";
    let expected =
        ["acme -1 -0.0009 correction", "globex -1 -0.000026 correction", "globex -1 -0.000132 correction"];
    assert_eq!(ledger.texts(negative).await, expected);
    ledger.assert_equals(&rig).await;

    // Whoever returns is billed anew.
    rig.insert([event("r3").auth("globex").model("acme/small")]).await;
    rig.rated(backfill(10, 11)).await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, 14);
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn a_message_that_comes_again_adds_nothing() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    ledger.catch_up(&rig).await;
    ledger.sql("CREATE TABLE earlier AS TABLE consumer").await;
    rig.reload(&dearer()).await;
    rig.sql("DELETE FROM billing_event WHERE request_id = 'r3'").await;
    rig.rated(backfill(10, 12)).await;
    ledger.catch_up(&rig).await;
    let lines = ledger.lines().await;
    assert_eq!(lines, 8);
    ledger.sql("UPDATE consumer SET cursor = (SELECT cursor FROM earlier)").await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, lines);
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn it_follows_as_it_happens_and_two_of_them_write_each_line_once() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    let mut followers: Vec<Child> = (0..2)
        .map(|_| {
            let mut command = ledger.command(&ledger.db.url, &["follow"]);
            command.env("RATER_SERVER", rig.service.url()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let lines = "SELECT CASE WHEN to_regclass('ledger_line') IS NULL THEN 0
        ELSE (xpath('/row/c/text()', query_to_xml('SELECT count(*) AS c FROM ledger_line', false, true, '')))[1]::text::bigint
        END";
    eventually("the first copy is billed", async || ledger.number(lines).await == 4).await;
    for number in 0..5 {
        rig.insert([event(&format!("late-{number}")).auth("acme")]).await;
        rig.rated(routine(10, 12)).await;
        eventually("it is billed", async || ledger.lines().await == 5 + number).await;
    }
    for follower in &mut followers {
        assert_eq!(follower.try_wait().unwrap(), None, "it goes on");
        kill(follower).await;
    }
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn one_that_slept_through_what_another_did_writes_nothing_of_what_it_had_in_hand() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    ledger.catch_up(&rig).await;
    let proxy = Proxy::to(&ledger.db.url).await;
    let mut command = ledger.command(&proxy.url(&ledger.db.url), &["follow"]);
    let mut sleeper = command.env("RATER_SERVER", rig.service.url()).stderr(Stdio::null()).spawn().unwrap();
    let spot = Spot { statement: "UPDATE consumer SET version", nth: 1, side: Side::Before };
    proxy.strike(spot, Deed::Stop(sleeper.id()));
    for number in 0..3 {
        rig.insert([event(&format!("late-{number}")).auth("acme")]).await;
        rig.rated(routine(10, 12)).await;
        eventually("it sleeps", async || proxy.has_struck()).await;
        ledger.catch_up(&rig).await;
    }
    kill_with(&sleeper, Signal::SIGCONT);
    proxy.release();
    rig.insert([event("last").auth("acme")]).await;
    rig.rated(routine(10, 12)).await;
    eventually("it goes on", async || ledger.lines().await == 8).await;
    assert_eq!(sleeper.try_wait().unwrap(), None, "it goes on");
    kill(&mut sleeper).await;
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn it_waits_for_a_service_that_is_away_and_goes_on_when_it_is_back() {
    let (mut rig, ledger) = begun().await;
    rated(&rig).await;
    ledger.catch_up(&rig).await;
    let (address, url) = (rig.service.address().to_owned(), rig.service.url());
    rig.service.signal(Signal::SIGKILL);
    rig.service.wait(Duration::from_secs(10)).await;
    let mut command = ledger.command(&ledger.db.url, &["follow", "--once"]);
    command.env("RATER_SERVER", &url).stderr(Stdio::null());
    let mut follower = command.spawn().unwrap();
    assert_eq!(ended(&mut follower, Duration::from_millis(500)).await, None, "it waits");
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap()];
    rig.service = Service::start_at(&address, &rig.db.url, &arguments).await;
    assert!(ended(&mut follower, Duration::from_secs(60)).await.expect("it goes on").success());
    rig.insert([event("late").auth("acme")]).await;
    rig.rated(routine(10, 12)).await;
    ledger.catch_up(&rig).await;
    assert_eq!(ledger.lines().await, 5);
    ledger.assert_equals(&rig).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_its_lines_are_written_once() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    let mut cuts = 0;
    for (number, side) in [Side::Before, Side::During, Side::After].into_iter().enumerate() {
        let proxy = Proxy::to(&ledger.db.url).await;
        // The first of the copy is its page, and then there is one a message.
        proxy.cut(1, side);
        let mut command = ledger.command(&proxy.url(&ledger.db.url), &["follow", "--once"]);
        let mut follower = command.env("RATER_SERVER", rig.service.url()).spawn().unwrap();
        assert!(ended(&mut follower, Duration::from_secs(60)).await.expect("it ends").success());
        let mut said = String::new();
        follower.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        cuts += said.matches("trying again").count();
        assert!(proxy.has_struck(), "{said}");
        ledger.assert_equals(&rig).await;
        rig.insert([event(&format!("late-{number}")).auth("acme")]).await;
        rig.rated(routine(10, 12)).await;
    }
    assert_eq!((cuts, ledger.lines().await), (3, 6));
}

#[tokio::test]
async fn a_ledger_of_hours_from_one_on_keeps_to_that() {
    let (rig, ledger) = begun().await;
    rated(&rig).await;
    let since = hour(11);
    let follow = ["follow", "--once", "--since", &since];
    ledger.did(&rig.service.url(), &follow).await;
    assert_eq!(ledger.texts("SELECT auth_id FROM rollup").await, ["acme"]);
    rig.reload(&dearer()).await;
    rig.rated(backfill(10, 12)).await;
    ledger.did(&rig.service.url(), &follow).await;
    assert_eq!(ledger.lines().await, 2);
    let refused = ledger.refused(&rig.service.url(), &["follow", "--once"]).await;
    assert!(refused.contains("begun with another --since (2026-06-01T11:00:00+00:00)"), "{refused}");
}
