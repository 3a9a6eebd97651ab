//! A look at a spool from outside, which changes nothing and stops nobody: whether it is in use, and
//! what it holds.

use std::path::Path;

use super::checkpoint;
use super::disk::{Disk, unless_missing};
use super::frame::time;
use super::layout::Layout;
use super::recovery::{check_ours, damaged_files, find_identity};
use super::survey::{Damage, survey};
use super::{Depth, Error, Inspection};

pub(super) fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Inspection, Error> {
    let layout = Layout { root: dir.to_path_buf() };
    check_ours(disk, &layout)?;
    let in_use = in_use(disk, &layout)?;
    let Some(spool) = find_identity(disk, &layout)? else {
        return Ok(Inspection { depth: Depth::default(), in_use });
    };
    let position = checkpoint::read(disk, &layout, spool)?.map(|(_, position)| position);
    let found = survey(disk, &layout, spool, position, in_use)?;
    let damaged = damaged_files(disk, &layout)?;
    let new = found.damages().filter(|damage| !damaged.contains_key(&damage.name()));
    let (mut ranges, mut bytes) = (damaged.len() as u64, damaged.values().sum::<u64>());
    for damage in new {
        ranges += 1;
        bytes += damage.to - damage.from;
    }
    let before = position.filter(|_| !damaged.is_empty()).map_or(0, |position| position.missing);
    let missing: u64 = found.damages().map(Damage::lost).sum();
    let shipped = layout.shipped();
    let kept = unless_missing(disk.files(&shipped)).map_err(Error::io("read", &shipped))?.unwrap_or_default();
    let depth = Depth {
        events: found.records(),
        bytes: found.bytes(),
        max_bytes: 0,
        oldest: found.oldest.map(time),
        segments: found.segments.iter().filter(|segment| segment.records > 0).count() as u64,
        retained_bytes: kept.iter().map(|file| file.bytes).sum(),
        damaged_ranges: ranges,
        damaged_bytes: bytes,
        missing_records: before + missing,
    };
    Ok(Inspection { depth, in_use })
}

/// Whether a process holds the lock. It is asked for together with others who look, for an instant.
fn in_use(disk: &dyn Disk, layout: &Layout) -> Result<bool, Error> {
    let path = layout.lock();
    let held = unless_missing(disk.lock(&path, true).map(|held| held.is_some()));
    held.map(|free| free == Some(false)).map_err(Error::io("lock", &path))
}
