//! How a record lies in a segment, and how a segment and a spool say what they are. All numbers
//! are little endian.
//!
//! ```text
//! frame     marker 4 | length 4 | ordinal 8 | appended 8 | CRC of the head 4 | CRC of all 4 | payload
//! segment   magic 8 | version 4 | unsure 4 | number 8 | spool 16 | first ordinal 8 | created 8 | 0 4 | CRC 4
//! identity  magic 8 | version 4 | spool 16 | CRC 4, twice
//! ```
//!
//! Both CRCs of a frame begin with the spool, the segment and the frame's offset, which are not in
//! the frame: a payload is a producer's text and could hold a forged frame, and a disk can put a
//! block to another place; neither passes. The head has one of its own so that it can be trusted
//! when the payload can't: the next frame is then found without a search, and a search over
//! hostile bytes costs no more than their length.

use std::time::{Duration, SystemTime};

use crc32c::{crc32c, crc32c_append};

use super::MAX_RECORD;

/// What a frame takes beside its payload.
pub(super) const FRAME: usize = 32;
/// What a segment's header takes.
pub(super) const HEADER: usize = 64;
/// What an identity's block takes.
pub(super) const IDENTITY: usize = 32;
/// The format of everything here.
pub(super) const VERSION: u32 = 1;
/// The bit of a frame's length that says that a write, of one frame or of many, began with it.
const BEGINS: u32 = 1 << 31;
/// No bytes of any UTF-8 text.
pub(super) const MARKER: [u8; 4] = [0xf5, b'r', b'e', 0xfe];

const SEGMENT_MAGIC: &[u8; 8] = b"RATERSEG";
const IDENTITY_MAGIC: &[u8; 8] = b"RATERSPL";

/// Which spool it is, drawn at random when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SpoolId(pub [u8; 16]);

/// Where a frame lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub spool: SpoolId,
    pub segment: u64,
    pub offset: u64,
}

/// A frame's head, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub len: usize,
    pub ordinal: u64,
    pub appended: u64,
    /// A write began with it: everything before it was on disk by then.
    pub begins: bool,
    crc: u32,
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub spool: SpoolId,
    /// Of the first record it gets. Whole frames of an earlier segment from this one on were
    /// never acknowledged.
    pub first: u64,
    /// How many of the ordinals before that may lack without a loss: they are of a write that was
    /// never finished, or nobody could make sure of them.
    pub unsure: u32,
    pub created: u64,
}

/// What was read where a header should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told<T> {
    Whole(T),
    Newer(u32),
    Damaged,
}

impl Place {
    fn seed(&self) -> u32 {
        let crc = crc32c_append(crc32c(&self.spool.0), &self.segment.to_le_bytes());
        crc32c_append(crc, &self.offset.to_le_bytes())
    }
}

/// Appends a record's frame, which will lie at `place`. The first frame of a write begins it.
pub(super) fn encode(into: &mut Vec<u8>, place: Place, ordinal: u64, appended: u64, payload: &[u8]) {
    let start = into.len();
    let begins = if start == 0 { BEGINS } else { 0 };
    into.extend_from_slice(&MARKER);
    into.extend_from_slice(&(payload.len() as u32 | begins).to_le_bytes());
    into.extend_from_slice(&ordinal.to_le_bytes());
    into.extend_from_slice(&appended.to_le_bytes());
    let head = crc32c_append(place.seed(), &into[start..]);
    into.extend_from_slice(&head.to_le_bytes());
    into.extend_from_slice(&crc32c_append(head, payload).to_le_bytes());
    into.extend_from_slice(payload);
}

/// The frame's head that begins `bytes`, if one does that belongs to `place`.
pub(super) fn head(bytes: &[u8], place: Place) -> Option<Head> {
    let bytes = bytes.get(..FRAME)?;
    if bytes[..4] != MARKER {
        return None;
    }
    let (len, begins) = ((u32_at(bytes, 4) & !BEGINS) as usize, u32_at(bytes, 4) & BEGINS != 0);
    let whole = len <= MAX_RECORD && crc32c_append(place.seed(), &bytes[..24]) == u32_at(bytes, 24);
    let (ordinal, appended) = (u64_at(bytes, 8), u64_at(bytes, 16));
    whole.then_some(Head { len, ordinal, appended, begins, crc: u32_at(bytes, 28) })
}

impl Head {
    /// What the whole frame takes.
    pub fn frame(&self) -> usize {
        FRAME + self.len
    }

    /// Whether `frame`, all the bytes that this head begins, is whole.
    pub fn is_whole(&self, frame: &[u8]) -> bool {
        crc32c_append(u32_at(frame, 24), &frame[FRAME..]) == self.crc
    }
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.unsure.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.spool.0);
        bytes[40..48].copy_from_slice(&self.first.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.created.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Told<SegmentHeader> {
        let Some(bytes) = checked::<HEADER>(bytes, SEGMENT_MAGIC) else { return Told::Damaged };
        match u32_at(bytes, 8) {
            VERSION => Told::Whole(SegmentHeader {
                number: u64_at(bytes, 16),
                spool: id_at(bytes, 24),
                first: u64_at(bytes, 40),
                unsure: u32_at(bytes, 12),
                created: u64_at(bytes, 48),
            }),
            version => Told::Newer(version),
        }
    }
}

impl SpoolId {
    pub fn encode(&self) -> [u8; 2 * IDENTITY] {
        let mut bytes = [0; 2 * IDENTITY];
        bytes[..8].copy_from_slice(IDENTITY_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.0);
        let crc = crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes.copy_within(..IDENTITY, IDENTITY);
        bytes
    }

    /// From the one of the two blocks that is whole.
    pub fn decode(bytes: &[u8]) -> Told<SpoolId> {
        let mut told = Told::Damaged;
        for block in bytes.chunks_exact(IDENTITY).take(2) {
            let Some(block) = checked::<IDENTITY>(block, IDENTITY_MAGIC) else { continue };
            match u32_at(block, 8) {
                VERSION => return Told::Whole(id_at(block, 12)),
                version => told = Told::Newer(version),
            }
        }
        told
    }
}

/// The first `N` bytes, when they begin with the magic and end with the CRC of the others.
pub(super) fn checked<'a, const N: usize>(bytes: &'a [u8], magic: &[u8; 8]) -> Option<&'a [u8]> {
    let bytes = bytes.get(..N)?;
    (bytes[..8] == magic[..] && crc32c(&bytes[..N - 4]) == u32_at(bytes, N - 4)).then_some(bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

pub(super) fn id_at(bytes: &[u8], at: usize) -> SpoolId {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[at..at + 16]);
    SpoolId(id)
}

/// As frames hold it; what lies before 1970 counts as 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn time(millis: u64) -> SystemTime {
    // A damaged clock may have given anything; what no time can hold counts as 1970.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}
