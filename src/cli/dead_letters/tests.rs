use std::process::ExitCode;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::dead_letters::{Content, Refused};

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn event(id: &str, tokens: &str) -> Content {
    let json = format!(r#"{{"request_id":"{id}","prompt_tokens":{tokens}}}"#);
    let event = crate::proto_json::event(json.as_bytes()).expect("an event");
    let json = crate::proto_json::json_line("rating.v1.BillingEvent", &event).expect("its own");
    Content::Event(serde_json::from_str(&json).expect("JSON"))
}

fn refused(content: Content) -> Refused {
    let [code, field, reason, message] =
        ["INVALID_ARGUMENT", "prompt_tokens", "NEGATIVE", ""].map(String::from);
    Refused { content, code, field, reason, message, spooled_at: None, origin: None }
}

/// A spool with a bad event and a line that is none.
fn spool() -> (TempDir, Letters) {
    let dir = tempfile::tempdir().expect("a folder");
    let letters = Letters::of(dir.path());
    letters.put(vec![refused(event("r1", "-1"))]).expect("put");
    letters.put(vec![refused(Content::Line("{\u{1b}[31m".into()))]).expect("put");
    (dir, letters)
}

/// How a command ended, with what it printed and what it said.
async fn run(dir: &TempDir, arguments: &[&str]) -> (Result<ExitCode, String>, String, String) {
    let spool = dir.path().display().to_string();
    let cli = <Cli as clap::Parser>::try_parse_from([&["x"], arguments, &["--spool", &spool]].concat());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::to(&mut out, &mut err);
    let ended = cli.expect("valid arguments").command.run(&mut console).await;
    drop(console);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (ended, text(out), text(err))
}

async fn printed(dir: &TempDir, arguments: &[&str]) -> String {
    let (ended, out, _) = run(dir, arguments).await;
    assert_eq!(ended, Ok(ExitCode::SUCCESS), "{arguments:?}");
    out
}

async fn failed(dir: &TempDir, arguments: &[&str]) -> String {
    let error = run(dir, arguments).await.0.expect_err("an error");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[tokio::test]
async fn letters_are_listed_oldest_first_and_damaged_ones_last() {
    let (dir, letters) = spool();
    std::fs::write(letters.dir().join("0-first"), "x").expect("written");
    let json = printed(&dir, &["list", "-o", "json"]).await;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let first = &lines[0];
    assert_eq!((&first["id"], &first["request_id"]), (&event("r1", "-1").id(None).into(), &"r1".into()));
    assert_eq!(
        (&first["reason"], &first["tries"], &first["damaged"]),
        (&"NEGATIVE".into(), &1.into(), &Value::Null)
    );
    assert_eq!((&lines[1]["request_id"], &lines[2]["reason"]), (&Value::Null, &"DAMAGED".into()));
    assert_eq!((&lines[2]["id"], &lines[2]["damaged"]), (&"0-first".into(), &"is not a whole letter".into()));
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&lines[0]), names(&lines[2]), "a shape that does not change");
    let csv = printed(&dir, &["list", "-o", "csv"]).await;
    assert!(csv.starts_with("id,request_id,field,reason,tries,first_at,last_at,damaged\n"), "{csv}");
    assert_eq!(csv.lines().count(), 4);
    assert_eq!(printed(&dir, &["list"]).await.lines().count(), 4);
}

#[tokio::test]
async fn no_letters_are_an_empty_list_and_no_spool_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(printed(&dir, &["list", "-o", "json"]).await, "");
    assert_eq!(printed(&dir, &["replay", "--all", "-o", "csv"]).await.lines().last(), Some("0,0,0,0,0"));
    assert_eq!(printed(&dir, &["drop", "--all", "-o", "json"]).await, "{\"dropped\":0}\n");
    let gone = tempfile::tempdir().expect("a folder");
    std::fs::remove_dir(gone.path()).expect("removed");
    for command in [&["list"][..], &["show", "x"], &["drop", "--all"], &["replay", "--all"]] {
        assert!(failed(&gone, command).await.starts_with("there is no folder"), "{command:?}");
    }
}

#[tokio::test]
async fn a_letter_is_shown_with_its_history_and_as_its_file_has_it() {
    let (dir, letters) = spool();
    let id = event("r1", "-1").id(None);
    let file = std::fs::read_to_string(letters.dir().join(format!("{id}.json"))).expect("there");
    assert_eq!(printed(&dir, &["show", &id, "-o", "json"]).await, file);
    let table = printed(&dir, &["show", &id[..16]]).await;
    assert!(table.contains("event.prompt_tokens") && table.contains("NEGATIVE"), "{table}");
    let line = printed(&dir, &["show", &Content::Line("{\u{1b}[31m".into()).id(None)]).await;
    assert!(line.contains("{\\u{1b}[31m") && !line.contains('\u{1b}'), "{line}");
    assert_eq!(printed(&dir, &["show", &id, "-o", "csv"]).await.lines().count(), 2);
    let shown: Value = serde_json::from_str(&printed(&dir, &["show", &id, "--event"]).await).expect("JSON");
    assert_eq!((&shown["request_id"], &shown["prompt_tokens"]), (&"r1".into(), &"-1".into()));
    assert!(failed(&dir, &["show", "zzz"]).await.starts_with("there is no letter zzz"));
    std::fs::write(letters.dir().join(format!("{id}.json")), &file[1..]).expect("written");
    assert!(failed(&dir, &["show", &id]).await.contains("can't be read: is not as it was written"));
}

#[tokio::test]
async fn a_letter_is_mended_from_a_file_and_a_bad_one_is_named() {
    let (dir, letters) = spool();
    let old = event("r1", "-1").id(None);
    let file = dir.path().join("event.json");
    let name = file.display().to_string();
    let mend = ["mend", &old[..12], &name, "-o", "json"];
    for (bad, says) in [
        ("{\n  \"request_id\": \"r1\",\n  \"prompt_tokens\": x\n}", "line 3, column 20: "),
        ("{\"request_id\":\"r1\"}\n{\"request_id\":\"r2\"}\n", "line 2, column 1: trailing characters"),
        ("{\"promt_tokens\":1}", "there is no field \"promt_tokens\""),
        ("", "column 0: EOF"),
    ] {
        std::fs::write(&file, bad).expect("written");
        let error = failed(&dir, &mend).await;
        assert!(error.starts_with(&format!("{name}: ")) && error.contains(says), "{error}");
    }
    std::fs::write(&file, vec![b' '; 2 * 1024 * 1024]).expect("written");
    assert!(failed(&dir, &mend).await.contains("is longer than"));
    let same = printed(&dir, &["show", &old, "--event"]).await;
    std::fs::write(&file, same).expect("written");
    let (_, out, err) = run(&dir, &mend).await;
    let expected = json!({"id": old, "mended_from": old});
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), expected);
    assert!(err.contains("nothing was changed"), "{err}");
    std::fs::write(&file, "{\n\"requestId\": \"r1\",\n\"promptTokens\": 1}\n").expect("written");
    let (_, out, err) = run(&dir, &mend).await;
    let new = event("r1", "1").id(None);
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), json!({"id": new, "mended_from": old}));
    assert!(err.contains(&format!("`rater dead-letters replay {new}` sends it")), "{err}");
    assert_eq!(letters.get(&new).expect("there").history.len(), 1);
    assert!(letters.get(&old).is_err());
    assert!(failed(&dir, &mend).await.starts_with("there is no letter"));
}

#[tokio::test]
async fn letters_are_dropped_by_name_or_all_and_never_by_mistake() {
    let (dir, letters) = spool();
    std::fs::write(letters.dir().join("notes.txt"), "x").expect("written");
    assert_eq!(failed(&dir, &["drop"]).await, "say which letters: their ids, or --all");
    assert_eq!(failed(&dir, &["drop", "--all", "abc"]).await, "give ids or --all, not both");
    let id = event("r1", "-1").id(None);
    assert!(failed(&dir, &["drop", &id, "zzz"]).await.contains("zzz"));
    assert_eq!(letters.count().expect("counted"), 3, "all of them or none");
    assert_eq!(printed(&dir, &["drop", &id, &id[..9], "-o", "json"]).await, "{\"dropped\":1}\n");
    assert_eq!(printed(&dir, &["drop", "--all", "-o", "json"]).await, "{\"dropped\":2}\n");
    assert_eq!(letters.count().expect("counted"), 0);
}

#[tokio::test]
async fn who_changes_letters_excludes_others_who_do_and_nobody_else() {
    let (dir, letters) = spool();
    let id = event("r1", "-1").id(None);
    let file = dir.path().join("event.json");
    std::fs::write(&file, "{\"request_id\":\"r1\"}").expect("written");
    let name = file.display().to_string();
    let held = letters.lock().expect("free");
    for command in [&["drop", &id][..], &["mend", &id, &name], &["replay", &id]] {
        assert!(
            failed(&dir, command).await.starts_with("another replay, mend or drop is at work"),
            "{command:?}"
        );
    }
    assert_eq!(printed(&dir, &["list"]).await.lines().count(), 3);
    printed(&dir, &["show", &id]).await;
    drop(held);
    printed(&dir, &["drop", &id]).await;
}
