use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A spool's folder, its letters, and the folder of those.
fn spool() -> (TempDir, DeadLetters, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let letters = DeadLetters::of(dir.path());
    let folder = letters.dir().to_path_buf();
    (dir, letters, folder)
}

fn event(id: u32) -> Content {
    Content::Event(json!({"request_id": format!("r{id}"), "prompt_tokens": "-1", "aborted": false}))
}

fn refused(content: Content) -> Refused {
    let [code, field, reason] = ["INVALID_ARGUMENT", "prompt_tokens", "NEGATIVE"].map(String::from);
    Refused { content, code, field, reason, message: "is -1".into(), spooled_at: None, origin: None }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000 + second, 123_456_789).expect("a time")
}

/// What is listed: ids of letters, and why the others are none.
fn listed(letters: &DeadLetters) -> (Vec<String>, Vec<(String, String)>) {
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    for entry in letters.list().expect("listed") {
        match entry {
            Entry::Letter(letter) => whole.push(letter.id),
            Entry::Damaged { id, why } => damaged.push((id, why)),
        }
    }
    (whole, damaged)
}

#[test]
fn a_letter_is_kept_whole_and_privately() {
    let (_dir, letters, folder) = spool();
    assert_eq!((listed(&letters), letters.count().expect("none")), ((vec![], vec![]), 0));
    let spooled_at = Some(at(-60));
    let contents = [event(1), Content::of_line(b"{\"x\n"), Content::of_line(b"\xff\x00")];
    for content in contents.clone() {
        letters.put_at(vec![Refused { spooled_at, ..refused(content) }], at(0)).expect("put");
    }
    for content in contents {
        let letter = letters.get(&content.id(None)).expect("there");
        assert_eq!((letter.content, letter.tries), (content, 1));
        assert_eq!((letter.first_at, letter.last_at), (at(0).with_nano(), at(0).with_nano()));
        assert_eq!(letter.spooled_at, Some(at(-60).with_nano()));
        let [attempt] = &letter.history[..] else { panic!("one attempt") };
        assert_eq!((attempt.reason.as_str(), attempt.message.as_str()), ("NEGATIVE", "is -1"));
    }
    assert_eq!(letters.count().expect("three"), 3);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in fs::read_dir(&folder).expect("read") {
        assert_eq!(mode(&file.expect("a file").path()), 0o600);
    }
}

trait WithNano {
    fn with_nano(self) -> Self;
}

impl WithNano for DateTime<Utc> {
    /// To the microsecond.
    fn with_nano(self) -> Self {
        chrono::SubsecRound::trunc_subsecs(self, 6)
    }
}

#[test]
fn the_same_content_is_one_letter_whose_tries_are_counted_in_full() {
    let (_dir, letters, _) = spool();
    for second in 0..25 {
        letters.put_at(vec![refused(event(1))], at(second)).expect("put");
    }
    let again = Content::Event(
        serde_json::from_str(r#"{"aborted":false,"prompt_tokens":"-1","request_id":"r1"}"#).expect("JSON"),
    );
    letters.put_at(vec![refused(again.clone()), refused(event(2)), refused(again)], at(25)).expect("put");
    let letter = letters.get(&event(1).id(None)).expect("there");
    assert_eq!((letter.tries, letter.history.len()), (27, 20));
    assert_eq!((letter.first_at, letter.last_at), (at(0).with_nano(), at(25).with_nano()));
    assert_eq!(letter.history[0].at, at(7).with_nano());
    assert_eq!(listed(&letters).0, [event(1).id(None), event(2).id(None)], "oldest first");
}

#[test]
fn what_has_no_request_id_is_a_letter_for_each_place_that_it_came_from() {
    let (_dir, letters, _) = spool();
    let nameless = |id: serde_json::Value| Content::Event(json!({"request_id": id, "prompt_tokens": "7"}));
    let from = |content, origin: &str| Refused { origin: Some(origin.into()), ..refused(content) };
    let (empty, line) = (nameless("".into()), Content::Line("{".into()));
    for origin in ["record 1", "record 2", "record 1"] {
        letters.put(vec![from(empty.clone(), origin), from(line.clone(), origin)]).expect("put");
        letters.put(vec![from(nameless("r".into()), origin)]).expect("put");
    }
    let tries: BTreeMap<String, u64> = listed(&letters)
        .0
        .iter()
        .map(|id| letters.get(id).expect("there"))
        .map(|letter| (letter.id, letter.tries))
        .collect();
    let mut expected = BTreeMap::from([(nameless("r".into()).id(None), 3)]);
    for content in [empty, line] {
        expected.insert(content.id(Some("record 1")), 2);
        expected.insert(content.id(Some("record 2")), 1);
    }
    assert_eq!(tries, expected);
}

#[test]
fn puts_at_the_same_time_forget_no_try() {
    let (_dir, letters, _) = spool();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| letters.put(vec![refused(event(1))]).expect("put")));
        }
    });
    assert_eq!(letters.get(&event(1).id(None)).expect("there").tries, 200);
}

#[test]
fn what_is_no_letter_is_told_and_keeps_no_other_from_being_read() {
    let (_dir, letters, folder) = spool();
    letters.put(vec![refused(event(1)), refused(event(2))]).expect("put");
    let (one, two) = (event(1).id(None), event(2).id(None));
    let whole = fs::read(folder.join(format!("{one}.json"))).expect("there");
    let id = |digit: &str| digit.repeat(32);
    let file = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("written");
    file("notes.txt", b"call Anna");
    file(&format!("{}.json", id("a")), b"");
    file(&format!("{}.json", id("b")), &[0xff; 100]);
    file(&format!("{}.json", id("c")), &whole);
    file(&format!("{}.json", id("d")), b"{}");
    let later = String::from_utf8(whole.clone()).expect("text").replacen("\"version\":1", "\"version\":2", 1);
    let body = later.rsplit_once(",\"sha256\"").expect("a sum").0.to_owned();
    let sum = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&body));
    file(&format!("{}.json", id("e")), format!("{body},\"sha256\":\"{sum}\"}}\n").as_bytes());
    fs::create_dir(folder.join("folder")).expect("made");
    symlink("/dev/zero", folder.join(format!("{}.json", id("f")))).expect("linked");
    let fifo = std::process::Command::new("mkfifo").arg(folder.join("fifo")).status();
    assert!(fifo.expect("mkfifo").success());
    let large = fs::File::create(folder.join("large")).expect("made");
    large.set_len(1 << 40).expect("sparse");
    file(".0.abc.tmp", b"half");
    let no_text = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    fs::write(folder.join(no_text), "x").expect("written");
    let (mut letters_there, damaged) = listed(&letters);
    letters_there.sort();
    let mut expected = vec![one.clone(), two];
    expected.sort();
    assert_eq!(letters_there, expected);
    let why: BTreeMap<_, _> = damaged.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
    assert_eq!(why.len(), 11, "{why:?}");
    for name in ["fifo", "folder", &id("f")] {
        assert_eq!(why[name], "is not a file");
    }
    for name in [&id("a"), &id("d"), "notes.txt"] {
        assert_eq!(why[name], "is not a whole letter");
    }
    assert_eq!(why[id("b").as_str()], "is no text");
    assert!(why[id("c").as_str()].ends_with(&format!("it is {one}")), "{why:?}");
    assert!(why[id("e").as_str()].starts_with("has version 2"), "{why:?}");
    assert!(why["large"].starts_with("is larger than"), "{why:?}");
    assert_eq!(letters.count().expect("counted"), 13);
    let dropped = ["notes.txt".into(), id("a"), "\u{fffd}\u{fffd}".into()];
    assert_eq!(letters.remove_all(&dropped).expect("removed"), 3);
}

#[test]
fn a_letter_that_was_cut_or_changed_anywhere_is_not_taken_for_one() {
    let (_dir, letters, folder) = spool();
    letters.put(vec![refused(event(1)), refused(Content::Line("{".into()))]).expect("put");
    for id in [event(1).id(None), Content::Line("{".into()).id(None)] {
        let path = folder.join(format!("{id}.json"));
        let whole = fs::read(&path).expect("there");
        let (mut cut, mut changed) = (0, 0);
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).expect("written");
            cut += usize::from(letters.get(&id).is_err());
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                changed += usize::from(file::decode(&id, &bytes).is_err());
                if bit == at % 8 {
                    fs::write(&path, &bytes).expect("written");
                    let (others, damaged) = listed(&letters);
                    assert_eq!((others.len(), damaged.len()), (1, 1), "byte {at}");
                }
            }
        }
        assert_eq!((cut, changed), (whole.len(), whole.len() * 8));
        fs::write(&path, [&whole[..], b" "].concat()).expect("written");
        assert!(letters.get(&id).is_err(), "longer than it was");
        fs::write(&path, &whole).expect("written");
        assert!(letters.get(&id).is_ok());
    }
}

#[test]
fn what_cannot_be_read_makes_room_for_its_letter_and_stays() {
    let (_dir, letters, folder) = spool();
    let id = event(1).id(None);
    letters.put(vec![refused(event(1))]).expect("put");
    fs::write(folder.join(format!("{id}.json")), "half a let").expect("written");
    letters.put(vec![refused(event(1))]).expect("put");
    assert_eq!(letters.get(&id).expect("whole").tries, 1);
    let (_, damaged) = listed(&letters);
    let [(aside, _)] = &damaged[..] else { panic!("{damaged:?}") };
    assert!(aside.starts_with(&id) && aside.ends_with(".damaged"), "{aside}");
    assert_eq!(fs::read_to_string(folder.join(aside)).expect("there"), "half a let");
    // The letter's whole id still means the letter.
    assert_eq!(letters.find(std::slice::from_ref(&id)).expect("one"), [id]);
    letters.remove(aside).expect("dropped");
}

#[test]
fn content_that_would_not_be_read_again_is_kept_as_text() {
    let (_dir, letters, _) = spool();
    let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
    letters.put(vec![refused(Content::Event(deep.clone()))]).expect("put");
    let [Entry::Letter(letter)] = &letters.list().expect("listed")[..] else { panic!("a letter") };
    assert_eq!(letter.content, Content::Line(canonical(&deep)));
}

#[test]
fn an_id_names_nothing_outside_of_the_folder() {
    let (dir, letters, folder) = spool();
    letters.put(vec![refused(event(1))]).expect("put");
    let outside = dir.path().join("secret.json");
    fs::write(&outside, "{}").expect("written");
    let absolute = outside.to_str().expect("text").to_owned();
    for id in
        ["../secret.json", "../secret", "..", ".", "", "/", "a/../../secret.json", "\0", ".lock", &absolute]
    {
        assert!(matches!(letters.get(id), Err(Error::Unknown(_))), "{id:?}");
        assert!(matches!(letters.remove(id), Err(Error::Unknown(_))), "{id:?}");
        assert!(matches!(letters.find(&[id.into()]), Err(Error::Unknown(_))), "{id:?}");
    }
    assert!(matches!(letters.get(&"x".repeat(300)), Err(Error::Unknown(_))));
    assert!(outside.exists() && folder.join(".lock").exists());
}

#[test]
fn an_id_may_be_shortened_to_what_no_other_begins_with() {
    let (_dir, letters, _) = spool();
    letters.put((0..40).map(|n| refused(event(n))).collect()).expect("put");
    let id = event(7).id(None);
    assert_eq!(letters.find(&[id[..12].into(), id.clone()]).expect("one"), [id]);
    let ambiguous = ('0'..='9').find_map(|digit| match letters.find(&[digit.to_string()]) {
        Err(Error::Ambiguous { prefix, count }) => Some((prefix, count)),
        _ => None,
    });
    let (prefix, count) = ambiguous.expect("40 letters, 16 digits");
    let there = letters.ids().expect("ids").iter().filter(|id| id.starts_with(&prefix)).count();
    assert_eq!(count, there);
    assert_eq!(letters.find(&["zz".into()]).expect_err("none").to_string().lines().count(), 1);
}

#[test]
fn a_mended_letter_keeps_its_history_and_the_old_one_goes() {
    let (_dir, letters, folder) = spool();
    letters.put_at(vec![refused(event(1))], at(0)).expect("put");
    letters.put_at(vec![refused(event(1))], at(1)).expect("put");
    let old = letters.get(&event(1).id(None)).expect("there");
    assert_eq!(letters.mend(&old.id, event(1)).expect("the same"), old);
    let before = fs::read(folder.join(format!("{}.json", old.id))).expect("there");
    let new = letters.mend(&old.id, event(2)).expect("mended");
    assert_eq!((&new.content, new.tries, &new.history), (&event(2), 2, &old.history));
    assert_eq!((new.id.clone(), new.mended_from.as_deref()), (event(2).id(None), Some(old.id.as_str())));
    assert_eq!(listed(&letters), (vec![new.id.clone()], vec![]));
    // Killed before the old one went: once more is the same.
    fs::write(folder.join(format!("{}.json", old.id)), before).expect("written");
    assert_eq!(letters.mend(&old.id, event(2)).expect("mended"), new);
    assert_eq!(listed(&letters), (vec![new.id.clone()], vec![]));
    // Into a letter that is there already.
    letters.put_at(vec![refused(event(3))], at(5)).expect("put");
    let both = letters.mend(&event(3).id(None), event(2)).expect("mended");
    assert_eq!((both.tries, both.history.len(), both.first_at), (3, 3, at(0).with_nano()));
    assert_eq!(listed(&letters), (vec![new.id], vec![]));
}

#[test]
fn only_who_asks_for_the_lock_is_kept_out() {
    let (_dir, letters, _) = spool();
    letters.put(vec![refused(event(1))]).expect("put");
    let lock = letters.lock().expect("free");
    assert!(matches!(letters.lock(), Err(Error::InUse(_))));
    letters.put(vec![refused(event(1)), refused(event(2))]).expect("put");
    assert_eq!((letters.list().expect("listed").len(), letters.count().expect("counted")), (2, 2));
    drop(lock);
    letters.lock().expect("free again");
    let nowhere = DeadLetters::of(Path::new("/no/such/spool"));
    assert!(matches!(nowhere.list(), Err(Error::NoSpool(_))));
    assert!(matches!(nowhere.lock(), Err(Error::NoSpool(_))));
    assert!(nowhere.put(vec![refused(event(1))]).is_err());
}

#[test]
fn what_killed_processes_left_is_cleared_away_after_a_while() {
    let (_dir, letters, folder) = spool();
    letters.put(vec![refused(event(1))]).expect("put");
    let (old, new) = (folder.join(".0.old.tmp"), folder.join(".0.new.tmp"));
    let file = fs::File::create(&old).expect("made");
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7_200)).expect("set");
    fs::write(&new, "half").expect("written");
    letters.lock().expect("free");
    assert!(!old.exists() && new.exists());
    assert_eq!(listed(&letters), (vec![event(1).id(None)], vec![]));
}
