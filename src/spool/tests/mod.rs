//! What a spool promises, on a disk in memory that fails as wanted and on real files.

#![allow(clippy::unwrap_used)]

mod changes;
mod crash;
mod damage;
mod faults;
mod kept;
mod memory;
mod unreadable;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::consumer::Reader;
use super::writer::Writer;
use super::{Error, Options, Record, recovery};
use memory::MemoryDisk;

/// The same numbers for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/spool")
}

fn options() -> Options {
    Options { max_bytes: 1 << 20, segment_bytes: 4096, retain: Duration::ZERO, reserve_bytes: 0 }
}

fn open(disk: &MemoryDisk, options: &Options) -> Result<(Writer, Reader), Error> {
    recovery::open(Arc::new(disk.clone()), Path::new(&dir()), options.clone())
}

/// Everything that is not done.
fn all(reader: &mut Reader) -> Vec<Record> {
    reader.peek(usize::MAX, usize::MAX).expect("the spool can be read")
}

fn payloads(records: &[Record]) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.payload.clone()).collect()
}

fn soak() -> bool {
    std::env::var_os("RATER_SOAK").is_some_and(|value| value == "1")
}
