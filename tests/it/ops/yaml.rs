//! YAML documents as JSON values, as far as manifests and rules use it.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Every document of a text.
pub fn documents(text: &str) -> Vec<Value> {
    let mut events = Parser::new_from_str(text).map(|next| next.unwrap().0);
    let mut found = Vec::new();
    while let Some(event) = events.next() {
        if let Event::DocumentStart(..) = event {
            let first = next(&mut events);
            found.push(node(first, &mut events));
        }
    }
    found.retain(|document| !document.is_null());
    found
}

fn next<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Event<'a> {
    // A comment is no part of what is said.
    events.find(|event| !matches!(event, Event::Comment(..))).expect("a whole document")
}

fn node<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
        Event::Scalar(text, ..) => Value::String(text.into_owned()),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events) {
                    Event::SequenceEnd => return Value::Array(items),
                    event => items.push(node(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut map = Map::new();
            loop {
                let key = match next(events) {
                    Event::MappingEnd => return Value::Object(map),
                    event => node(event, events),
                };
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                let value = next(events);
                let value = node(value, events);
                assert!(map.insert(key.clone(), value).is_none(), "{key} is there twice");
            }
        }
        other => panic!("{other:?} is not expected here"),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text.parse().map_or_else(|_| Value::String(text.into()), |number: i64| number.into()),
    }
}

#[test]
fn yaml_is_read_as_it_is_meant() {
    let found = documents("a: 1 # one\nb: [x, \"2\"]\n---\nc: >-\n  two\n  words\n---\n");
    assert_eq!(found, [serde_json::json!({"a": 1, "b": ["x", "2"]}), serde_json::json!({"c": "two words"})]);
}
