//! The contract's messages in proto3's JSON mapping: printed with the proto's field names, and
//! an event read from what a producer wrote.

use std::fmt;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::domain::text::printable;
use crate::proto::{BillingEvent, DESCRIPTOR_SET};

/// The descriptor of a message of the contract, by its full name (`rating.v1.Run`).
pub fn descriptor(full_name: &str) -> Option<MessageDescriptor> {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(DESCRIPTOR_SET).ok());
    POOL.as_ref()?.get_message_by_name(full_name)
}

/// A message as one line of proto3 JSON, without the line's end. It fails only when
/// `full_name` isn't the message's own.
pub fn json_line<M: Message>(full_name: &str, message: &M) -> Result<String, String> {
    let descriptor =
        descriptor(full_name).ok_or_else(|| format!("the contract has no message {full_name}"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| format!("{full_name}: {error}"))?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let mut json = serde_json::Serializer::new(Vec::new());
    dynamic.serialize_with_options(&mut json, &options).map_err(|error| format!("{full_name}: {error}"))?;
    String::from_utf8(json.into_inner()).map_err(|error| format!("{full_name}: {error}"))
}

/// An event from its JSON: the proto's field names or their lowerCamelCase forms. It refuses
/// what it can't take literally: unknown fields, a field that stands twice, more than one
/// value. The error says what is wrong, at which column, and what to do.
pub fn event(json: &[u8]) -> Result<BillingEvent, String> {
    let fields = descriptor("rating.v1.BillingEvent").ok_or("the contract has no BillingEvent")?;
    let Names(names) = serde_json::from_slice(json).map_err(|error| describe(&error))?;
    let mut seen = Vec::with_capacity(names.len());
    for name in &names {
        let field = fields.get_field_by_json_name(name).or_else(|| fields.get_field_by_name(name));
        let Some(field) = field else {
            return Err(format!(
                "there is no field \"{}\"; write it as the contract does, or leave it out",
                short(name)
            ));
        };
        if seen.contains(&field.number()) {
            return Err(format!("\"{}\" stands twice; keep one of them", field.name()));
        }
        seen.push(field.number());
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(fields, &mut json).map_err(|error| describe(&error))?;
    message.transcode_to().map_err(|error| error.to_string())
}

/// Its place and what is wrong; without the line where that is the first, which for one of many
/// lines is not the file's.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = short(text.strip_suffix(&place).unwrap_or(&text));
    let line = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
    format!("{line}column {}: {what}; write one JSON object with the fields of BillingEvent", error.column())
}

/// Fit for a message, whatever the input holds.
fn short(text: &str) -> String {
    printable(&text.chars().take(120).collect::<String>())
}

/// The names in one JSON object, all of them: a parser into a message keeps the last of two.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
