//! The dead letters, as an operator sees them.

use std::path::Path;

use rater::proto::BillingEvent;
use serde_json::Value;

use super::sender::files;
use crate::harness::run;

/// A dead letter that holds an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub id: String,
    pub event: BillingEvent,
    pub reason: String,
    pub tries: u64,
}

/// All of them; each holds an event.
pub fn letters(spool: &Path) -> Vec<Letter> {
    list(spool).iter().map(letter).collect()
}

/// What is in each one's file, as `rater dead-letters list` names them; none is damaged, and there
/// are no other letters.
pub fn list(spool: &Path) -> Vec<Value> {
    let output = run("", &["dead-letters", "list", "--spool", spool.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.code(), Some(0), "{output:?}");
    let folder = spool.join("dead-letters");
    let mut found = Vec::new();
    for listed in output.stdout.lines() {
        let listed: Value = serde_json::from_str(listed).unwrap();
        assert!(listed["damaged"].is_null(), "{listed}");
        let text = std::fs::read(folder.join(format!("{}.json", listed["id"].as_str().unwrap()))).unwrap();
        let letter: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&letter["tries"], last(&letter)), (&listed["tries"], listed["reason"].as_str().unwrap()));
        found.push(letter);
    }
    assert_eq!(names(spool).len(), found.len());
    found
}

/// The files of whole letters.
pub fn names(spool: &Path) -> Vec<String> {
    let names = files(&spool.join("dead-letters")).into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".json")).collect()
}

/// Why it was refused last.
fn last(letter: &Value) -> &str {
    letter["history"].as_array().unwrap().last().unwrap()["reason"].as_str().unwrap()
}

fn letter(value: &Value) -> Letter {
    Letter {
        id: value["id"].as_str().unwrap().into(),
        event: rater::proto_json::event(value["event"].to_string().as_bytes()).unwrap(),
        reason: last(value).into(),
        tries: value["tries"].as_u64().unwrap(),
    }
}
