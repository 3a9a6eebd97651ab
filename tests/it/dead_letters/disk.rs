//! A disk that is full.

use std::fs;
use std::io::Write;
use std::path::Path;

use rater::dead_letters::{Content, DeadLetters, Error};

use super::{event, files, letters, poison, put, refused, totals};
use crate::harness::{Tmpfs, skipped};
use crate::rig::{BOOK, Rig};

const PAGE: usize = 4096;

/// Takes all room but so many pages.
fn fill(dir: &Path, pages: usize) {
    let path = dir.join("ballast");
    let mut file = fs::File::create(&path).unwrap();
    while file.write(&[1; PAGE]).is_ok_and(|written| written == PAGE) {}
    let length = file.metadata().unwrap().len() as usize / PAGE * PAGE;
    file.set_len((length - pages * PAGE) as u64).unwrap();
}

#[tokio::test]
async fn on_a_full_disk_letters_are_put_whole_or_not_and_the_others_stay() {
    let disk = match Tmpfs::mount(1) {
        Ok(disk) => disk,
        Err(why) => return skipped("on_a_full_disk_letters_are_put_whole_or_not_and_the_others_stay", &why),
    };
    let rig = Rig::start(BOOK, &[]).await;
    put(disk.path(), [poison("old"), event("fine")]);
    let before = files(disk.path());
    let mut failed = 0;
    // So that the room ends at the first letter, the next, and so on.
    for pages in 0..5 {
        fill(disk.path(), pages);
        let new = ["old", "a", "b"].map(|id| refused(Content::Event(poison(id)))).into();
        let error = match DeadLetters::of(disk.path()).put(new) {
            Ok(()) => break,
            Err(error) => error,
        };
        assert!(matches!(error, Error::Io { what: "write", .. }), "{error:?}");
        assert_eq!(error.to_string().lines().count(), 1);
        assert_eq!(files(disk.path()), before, "with {pages} pages");
        failed += 1;
    }
    assert_eq!(failed, 3);
    DeadLetters::of(disk.path())
        .remove_all(&["a", "b"].map(|id| Content::Event(poison(id)).id(None)))
        .unwrap();

    // A replay can't write down that a letter was refused again, and keeps it.
    fill(disk.path(), 0);
    let before = files(disk.path());
    let mend =
        letters(&rig, disk.path(), &["mend", &before[1].0[..8], disk.path().join("none").to_str().unwrap()]);
    assert_eq!(mend.code(), Some(1));
    let sent = letters(&rig, disk.path(), &["replay", "--all", "-o", "csv"]);
    // What was stored made room for what goes back.
    assert_eq!((sent.code(), totals(&sent)), (Some(1), vec![2, 1, 0, 1, 0]), "{}", sent.stderr);
    fill(disk.path(), 0);
    let before = files(disk.path());
    let sent = letters(&rig, disk.path(), &["replay", "--all", "-o", "csv"]);
    assert_eq!((sent.code(), totals(&sent)), (Some(1), vec![0, 0, 0, 0, 1]), "{}", sent.stderr);
    assert!(sent.stderr.contains("can't write"), "{}", sent.stderr);
    assert_eq!(files(disk.path()), before);
    let dropped = letters(&rig, disk.path(), &["drop", "--all", "-o", "csv"]);
    assert_eq!((dropped.code(), dropped.stdout.as_str()), (Some(0), "dropped\n1\n"));
}
