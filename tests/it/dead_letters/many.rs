//! Many letters, and files that are none.

use std::fs;
use std::process::Command;
use std::time::Instant;

use rater::dead_letters::DeadLetters;

use super::{event, fast_dir, put};
use crate::harness::{run, soak, temp_dir};

#[test]
fn a_hundred_thousand_letters_are_listed_and_dropped() {
    let (count, spool) = (if soak() { 100_000 } else { 2_000 }, fast_dir());
    for from in (0..count).step_by(1_000) {
        put(spool.path(), (from..from + 1_000).map(|n| event(&n.to_string())));
    }
    let dir = spool.path().to_str().unwrap();
    for (format, lines) in [("json", count), ("csv", count + 1), ("table", count + 1)] {
        let began = Instant::now();
        let listed = run("", &["dead-letters", "list", "--spool", dir, "-o", format]);
        println!("{count} letters as {format}: {:?}", began.elapsed());
        assert_eq!((listed.code(), listed.stdout.lines().count()), (Some(0), lines));
    }
    let began = Instant::now();
    assert_eq!(DeadLetters::of(spool.path()).count().unwrap(), count as u64);
    println!("counted in {:?}", began.elapsed());
    let dropped = run("", &["dead-letters", "drop", "--all", "--spool", dir, "-o", "csv"]);
    assert_eq!(dropped.stdout, format!("dropped\n{count}\n"));
    assert_eq!(DeadLetters::of(spool.path()).count().unwrap(), 0);
}

#[test]
fn files_that_are_no_letters_are_listed_and_keep_nothing_waiting() {
    let spool = temp_dir();
    put(spool.path(), [event("one")]);
    let folder = spool.path().join("dead-letters");
    fs::write(folder.join("core"), [0; 10_000]).unwrap();
    fs::write(folder.join("\u{1b}[31mred"), "").unwrap();
    fs::create_dir(folder.join("old")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
    let dir = spool.path().to_str().unwrap();
    let listed = run("", &["dead-letters", "list", "--spool", dir]);
    assert_eq!((listed.code(), listed.stdout.lines().count()), (Some(0), 6), "{}", listed.stdout);
    assert!(!listed.stdout.contains('\u{1b}'), "{}", listed.stdout);
    let shown = run("", &["dead-letters", "show", "core", "--spool", dir]);
    assert_eq!((shown.code(), shown.stderr.lines().count()), (Some(1), 1), "{}", shown.stderr);
    let dropped = run("", &["dead-letters", "drop", "core", "pipe", "--spool", dir, "-o", "csv"]);
    assert_eq!((dropped.code(), dropped.stdout.as_str()), (Some(0), "dropped\n2\n"), "{}", dropped.stderr);
    let dropped = run("", &["dead-letters", "drop", "--all", "--spool", dir]);
    assert_eq!((dropped.code(), dropped.stderr.lines().count()), (Some(1), 1), "a folder can't go");
    assert_eq!(DeadLetters::of(spool.path()).count().unwrap(), 1, "and keeps no other");
}
