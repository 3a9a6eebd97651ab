//! `rater rate` while the service dies: it finds its run again, or what became of it.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Service, event, run};
use crate::rig::{BOOK, Rig, eventually};

fn rate(url: &str) -> tokio::task::JoinHandle<crate::harness::Output> {
    let url = url.to_string();
    tokio::task::spawn_blocking(move || {
        let window = ["--since", "2026-06-01T10:00:00Z", "--until", "2026-06-01T11:00:00Z"];
        let options = ["--request-id", "nightly", "--retry-for", "60s", "--quiet"];
        run(&url, &[&["rate", "-o", "json"], &options[..], &window[..]].concat())
    })
}

#[tokio::test]
async fn a_run_whose_service_was_killed_goes_on_in_the_next_one_and_its_caller_gets_the_result() {
    let rig = Rig::start(BOOK, &["--lease-ttl", "2s"]).await;
    rig.insert([event("a")]).await;
    let hold = rig.hold_writes().await;
    let command = rate(&rig.service.url());
    rig.until_blocked(1).await;
    rig.service.signal(nix::sys::signal::Signal::SIGKILL);
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap(), "--lease-ttl", "2s"];
    let again = Service::start_at(rig.service.address(), &rig.db.url, &arguments).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    hold.rollback().await.unwrap();
    let output = command.await.unwrap();
    assert_eq!(output.code(), Some(0), "{output:?}");
    assert!(output.stderr.contains("looking for the run again (request id nightly)"), "{output:?}");
    assert!(output.stdout.contains(r#""inserted_rollups":"1""#), "{output:?}");
    assert_eq!((rig.rows().await.len(), rig.count("rating_run").await), (1, 1));
    assert_eq!(rig.one::<String>("SELECT state FROM rating_run").await, "succeeded");
    drop(again);
}

#[tokio::test]
async fn a_run_that_ended_while_its_caller_was_cut_off_is_found_with_its_result() {
    let rig = Rig::with_events([event("a")]).await;
    let book = rig.book_path();
    // Two services, one database: the second knows the first one's run.
    let other = Service::start(&rig.db.url, &["--pricebook", book.to_str().unwrap()]).await;
    let hold = rig.hold_writes().await;
    let first = rate(&rig.service.url());
    rig.until_blocked(1).await;
    let second = rate(&other.url());
    tokio::time::sleep(Duration::from_millis(300)).await;
    hold.rollback().await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.code(), &first.stdout), (Some(0), &second.stdout), "{first:?} {second:?}");
    eventually("one run", async || rig.count("rating_run").await == 1).await;
}

#[tokio::test]
async fn ctrl_c_leaves_a_run_that_goes_on() {
    let rig = Rig::with_events([event("a")]).await;
    let hold = rig.hold_writes().await;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rater"))
        .args(["rate", "--server", &rig.service.url()])
        .args(["--since", "2026-06-01T10:00:00Z", "--until", "2026-06-01T11:00:00Z"])
        .args(["--request-id", "nightly", "--quiet"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    rig.until_blocked(1).await;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let left = tokio::task::spawn_blocking(move || {
        let code = child.wait().unwrap().code();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    });
    let (code, said) = left.await.unwrap();
    assert_eq!((code, said.lines().count()), (Some(130), 1), "{said}");
    assert!(said.contains("goes on"), "{said}");
    hold.rollback().await.unwrap();
    eventually("the run ends", async || {
        rig.one::<i64>("SELECT count(*) FROM rating_run WHERE state = 'succeeded'").await == 1
    })
    .await;
}
