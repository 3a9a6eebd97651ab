//! How far a spool is taken care of: a file of two slots that are written in turn, in place, each
//! with its CRC32C. One that is torn leaves the other, which is a step behind: what lies between is
//! shipped twice, and the service stores it once. No new file and no rename, so that a full disk
//! stops nobody from saying that something is done and may go.
//!
//! ```text
//! slot   magic 8 | version 4 | 0 4 | spool 16 | generation 8 | segment 8 | offset 8 | ordinal 8 |
//!        missing 8 | 0 4 | CRC 4
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Error;
use super::disk::{Disk, File, read_around, unless_missing, write_again, write_whole};
use super::frame::{SpoolId, VERSION, checked, id_at, u32_at, u64_at};
use super::layout::Layout;

const MAGIC: &[u8; 8] = b"RATERCHK";
const SLOT: usize = 80;
/// Where the second slot begins: a write to one must not touch the disk's block of the other.
const SECOND: usize = 4096;

/// Up to where records are taken care of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub segment: u64,
    pub offset: u64,
    /// Of the next record.
    pub ordinal: u64,
    /// How many ordinals before it no record was found for.
    pub missing: u64,
}

/// The file, for who moves it on.
#[derive(Debug)]
pub(super) struct Checkpoint {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    spool: SpoolId,
    /// None when a new file is due: none is there, or one failed and is not written again.
    file: Option<Arc<dyn File>>,
    generation: u64,
}

impl Checkpoint {
    /// With the last position, when there is one.
    pub fn open(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        spool: SpoolId,
    ) -> Result<(Checkpoint, Option<Position>), Error> {
        let path = layout.checkpoint();
        let last = read(&**disk, layout, spool)?;
        let file = match last {
            Some(_) => Some(disk.open(&path, true).map_err(Error::io("open", &path))?),
            None => None,
        };
        let generation = last.map_or(0, |(generation, _)| generation);
        let checkpoint = Checkpoint { disk: disk.clone(), path, spool, file, generation };
        Ok((checkpoint, last.map(|(_, position)| position)))
    }

    /// The position that was read is on disk when this returns. Until then nothing may go by it: the
    /// process before may have been killed before its sync, or its sync may have failed.
    pub fn settle(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let offset = place(self.generation);
        // In its own place: the other slot is on disk, this one may not be.
        write_again(&*file, offset..offset + SLOT as u64)?;
        file.sync()?;
        self.file = Some(file);
        Ok(())
    }

    /// The position is on disk when this returns.
    pub fn write(&mut self, position: Position) -> Result<(), Error> {
        self.generation += 1;
        let slot = encode(self.spool, self.generation, position);
        if let Some(file) = self.file.take()
            && file.write_at(&slot, place(self.generation)).and_then(|()| file.sync()).is_ok()
        {
            self.file = Some(file);
            return Ok(());
        }
        self.replace(&slot)
    }

    fn replace(&mut self, slot: &[u8; SLOT]) -> Result<(), Error> {
        let mut both = vec![0; SECOND + SLOT];
        both[..SLOT].copy_from_slice(slot);
        both[SECOND..].copy_from_slice(slot);
        let file = write_whole(&*self.disk, &self.path, &both).map_err(Error::io("write", &self.path))?;
        self.file = Some(file);
        Ok(())
    }
}

/// Where a generation's slot lies. A file that was written whole has it in both.
fn place(generation: u64) -> u64 {
    if generation.is_multiple_of(2) { 0 } else { SECOND as u64 }
}

/// The newest whole slot, with its generation.
pub(super) fn read(
    disk: &dyn Disk,
    layout: &Layout,
    spool: SpoolId,
) -> Result<Option<(u64, Position)>, Error> {
    let path = layout.checkpoint();
    let file = unless_missing(disk.open(&path, false)).map_err(Error::io("open", &path))?;
    let Some(file) = file else { return Ok(None) };
    let mut bytes = vec![0; SECOND + SLOT];
    let (read, _) = read_around(&*file, &mut bytes, 0).map_err(Error::io("read", &path))?;
    bytes.truncate(read);
    let mut newest: Option<(u64, Position)> = None;
    for at in [0, SECOND] {
        let slot = bytes.get(at..).and_then(|bytes| checked::<SLOT>(bytes, MAGIC));
        let Some(slot) = slot.filter(|slot| id_at(slot, 16) == spool) else { continue };
        match u32_at(slot, 8) {
            VERSION => {
                let (generation, position) = decode(slot);
                if newest.is_none_or(|(known, _)| known < generation) {
                    newest = Some((generation, position));
                }
            }
            version => return Err(Error::Newer { path, version }),
        }
    }
    Ok(newest)
}

fn encode(spool: SpoolId, generation: u64, position: Position) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&spool.0);
    let numbers = [generation, position.segment, position.offset, position.ordinal, position.missing];
    for (number, into) in numbers.iter().zip(bytes[32..72].chunks_exact_mut(8)) {
        into.copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[..SLOT - 4]);
    bytes[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> (u64, Position) {
    let [generation, segment, offset, ordinal, missing] = [32, 40, 48, 56, 64].map(|at| u64_at(slot, at));
    (generation, Position { segment, offset, ordinal, missing })
}
