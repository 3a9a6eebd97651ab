//! The dead letters, as an operator sees them.

use std::path::Path;

use rater::proto::BillingEvent;
use serde_json::Value;

use crate::harness::run;

/// A dead letter that holds an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub id: String,
    pub event: BillingEvent,
    pub reason: String,
    pub tries: u64,
}

/// All of them, as `rater dead-letters list -o json` tells them: each holds an event, and none
/// is unreadable.
pub fn letters(spool: &Path) -> Vec<Letter> {
    list(spool).iter().map(letter).collect()
}

/// Each letter's JSON.
pub fn list(spool: &Path) -> Vec<Value> {
    let output = run("", &["dead-letters", "list", "--spool", spool.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.code(), Some(0), "{output:?}");
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn letter(value: &Value) -> Letter {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_string();
    Letter {
        id: text(&value["id"]),
        event: rater::proto_json::event(value["event"].to_string().as_bytes()).unwrap(),
        reason: text(&value["history"].as_array().unwrap().last().unwrap()["reason"]),
        tries: value["tries"].as_u64().unwrap(),
    }
}
