//! Messages that are nonsense: random bytes, and random values in the fields of a real message.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::events::Random;

pub fn bytes(random: &mut Random, most: u64) -> Vec<u8> {
    (0..random.below(most + 1)).map(|_| random.below(256) as u8).collect()
}

/// A message with a few of its bytes changed, or its end cut off.
pub fn mangled(random: &mut Random, kind: &MessageDescriptor) -> Vec<u8> {
    let mut message = message(random, kind, 0);
    if message.is_empty() {
        return message;
    }
    for _ in 0..1 + random.below(3) {
        let at = random.below(message.len() as u64) as usize;
        message[at] = random.below(256) as u8;
    }
    if random.below(2) == 0 {
        message.truncate(random.below(message.len() as u64) as usize);
    }
    message
}

/// Some of a message's fields with values of their kind, and now and then something that no
/// message has.
pub fn message(random: &mut Random, kind: &MessageDescriptor, depth: u32) -> Vec<u8> {
    if kind.full_name() == "google.protobuf.Timestamp" && random.below(8) > 0 {
        return timestamp(random);
    }
    let mut out = Vec::new();
    for field in kind.fields() {
        if random.below(3) == 0 {
            continue;
        }
        let times = match (field.is_list(), random.below(30)) {
            (false, _) => 1,
            (true, 0) if depth == 0 => 1_500,
            (true, some) => some % 5,
        };
        for _ in 0..times {
            put(&mut out, random, &field, depth);
        }
    }
    if random.below(20) == 0 {
        varint(&mut out, (1_000 + random.below(1_000)) << 3 | random.below(8));
        out.extend(bytes(random, 20));
    }
    out
}

fn put(out: &mut Vec<u8>, random: &mut Random, field: &FieldDescriptor, depth: u32) {
    let number = u64::from(field.number()) << 3;
    // Another kind than the field's.
    if random.below(200) == 0 {
        varint(out, number | 5);
        out.extend(0xDEAD_BEEF_u32.to_le_bytes());
        return;
    }
    match field.kind() {
        Kind::Message(inner) => block(out, number, &message(random, &inner, depth + 1)),
        Kind::String | Kind::Bytes => block(out, number, &text(random)),
        _ => {
            varint(out, number);
            varint(out, integer(random));
        }
    }
}

fn block(out: &mut Vec<u8>, number: u64, content: &[u8]) {
    varint(out, number | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn integer(random: &mut Random) -> u64 {
    let edges = [0, 1, 2, 3, 7, 10_000, 10_001, i32::MAX as u64, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX];
    match random.below(4) {
        0 => random.below(u64::from(u32::MAX)),
        _ => edges[random.below(edges.len() as u64) as usize],
    }
}

fn text(random: &mut Random) -> Vec<u8> {
    match random.below(11) {
        0 => Vec::new(),
        1 => b"\0".to_vec(),
        2 => b"a\0b".to_vec(),
        3 if random.below(8) == 0 => vec![0xFF, 0xFE, b'x'],
        4 => "é\u{10FFFF}\u{FEFF}\u{202E}".into(),
        5 => vec![b'x'; 1 + random.below(300) as usize],
        6 => vec![b'x'; random.below(40_000) as usize],
        7 => b"'; DROP TABLE rated_usage; --".to_vec(),
        8 => b"version: 1\nbase_models: {\"a\": {prompt: \"1\"}}".to_vec(),
        9 => b"{[&a *a <<: !!binary".to_vec(),
        10 => format!("{:064x}", random.below(1 << 32)).into(),
        _ => format!("id-{}", random.below(50)).into(),
    }
}

/// On the hour, off it, and where time ends.
fn timestamp(random: &mut Random) -> Vec<u8> {
    const HOUR: i64 = 3600;
    let seconds = match random.below(9) {
        0 => i64::MIN,
        1 => i64::MAX,
        2 => -62_135_596_800,
        3 => 253_402_300_799,
        4 => 253_402_297_200,
        5 => -62_135_596_801,
        6 => 1_780_272_000 + HOUR * random.below(5) as i64,
        7 => random.below(4_000_000_000) as i64,
        _ => HOUR * random.below(1_000_000) as i64,
    };
    let nanos: i32 = match random.below(6) {
        0 => -1,
        1 => 1_000_000_000,
        2 => i32::MIN,
        3 => 999_999_999,
        _ => 0,
    };
    let mut out = Vec::new();
    varint(&mut out, 1 << 3);
    varint(&mut out, seconds as u64);
    varint(&mut out, 2 << 3);
    varint(&mut out, i64::from(nanos) as u64);
    out
}
