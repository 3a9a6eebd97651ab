//! What was shipped and is still kept, for a database that was restored from a backup. Reads beside
//! the process that uses the spool and changes nothing; a segment that goes meanwhile is told.
//!
//! A backup lacks what was shipped after it, however long before that it was appended, so whole
//! segments are chosen by when they were shipped. What is given too much counts as duplicates.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::checkpoint::{self, Position};
use super::disk::{Disk, unless_missing};
use super::frame::{HEADER, Place, SpoolId, millis, time};
use super::layout::{Layout, segment_number};
use super::recovery::{check_ours, find_identity};
use super::scan::{Found, Scanner, Step};
use super::survey::{header, numbers};
use super::{Error, Record};

/// The records, segment by segment.
#[derive(Debug)]
pub(super) struct Retained {
    disk: Arc<dyn Disk>,
    layout: Layout,
    spool: SpoolId,
    position: Position,
    /// The segments that are left, the next one last.
    left: Vec<u64>,
    /// When those were shipped that were kept already.
    shipped: HashMap<u64, SystemTime>,
    since: Option<SystemTime>,
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    number: u64,
    scanner: Scanner,
    /// Records from before this time are left out, in milliseconds.
    from: u64,
    /// What lies behind this place is not done, or was never acknowledged.
    until: u64,
}

pub(super) fn retained(
    disk: Arc<dyn Disk>,
    dir: &Path,
    since: Option<SystemTime>,
) -> Result<Retained, Error> {
    let layout = Layout { root: dir.to_path_buf() };
    check_ours(&*disk, &layout)?;
    let spool = find_identity(&*disk, &layout)?;
    let position = match spool {
        Some(spool) => checkpoint::read(&*disk, &layout, spool)?.map(|(_, position)| position),
        None => None,
    };
    let position = position.unwrap_or_default();
    // In this order, or one that is renamed in between could be in neither list.
    let mut left = numbers(&*disk, &layout.segments())?;
    left.retain(|number| {
        *number < position.segment || (*number == position.segment && position.offset > HEADER as u64)
    });
    let kept = layout.shipped();
    let files = unless_missing(disk.files(&kept)).map_err(Error::io("read", &kept))?.unwrap_or_default();
    let shipped: HashMap<u64, SystemTime> = files
        .iter()
        .filter_map(|file| segment_number(&file.name).map(|number| (number, file.modified)))
        .collect();
    left.extend(shipped.keys());
    left.extend(numbers(&*disk, &layout.damaged())?);
    left.sort_unstable_by(|a, b| b.cmp(a));
    left.dedup();
    let spool = spool.unwrap_or(SpoolId([0; 16]));
    Ok(Retained { disk, layout, spool, position, left, shipped, since, reading: None })
}

impl Retained {
    fn step(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some(Reading { number, scanner, from, until }) = &mut self.reading else {
                let Some(number) = self.left.pop() else { return Ok(None) };
                self.reading = Some(self.begin(number)?);
                continue;
            };
            let (number, from, until) = (*number, *from, *until);
            let step = scanner.next().map_err(Error::io("read", &self.layout.shipped_segment(number)));
            match step.inspect_err(|_| self.reading = None)? {
                Step::Record(found) if found.offset >= until => self.reading = None,
                Step::Record(found) if found.appended < from => {}
                Step::Record(found) => return Ok(Some(record(found))),
                Step::Damaged(stretch) if stretch.torn => {}
                Step::Damaged(stretch) => tracing::warn!(
                    segment = number,
                    offset = stretch.from,
                    bytes = stretch.to - stretch.from,
                    unreadable = stretch.unreadable,
                    "bytes of a kept segment are damaged"
                ),
                Step::End => self.reading = None,
            }
        }
    }

    fn begin(&self, number: u64) -> Result<Reading, Error> {
        let since = self.since.map_or(0, millis);
        let shipped = self.shipped.get(&number).copied();
        let early = shipped.is_some_and(|shipped| millis(shipped) < since);
        let from = if early { since } else { 0 };
        let (kept, spared) = (self.layout.shipped_segment(number), self.layout.damaged_segment(number));
        for path in [self.layout.segment(number), kept.clone(), spared.clone()] {
            let file = unless_missing(self.disk.open(&path, false)).map_err(Error::io("open", &path))?;
            let Some(file) = file else { continue };
            let size = file.size().map_err(Error::io("read", &path))?;
            let first = header(&*file, &path, self.spool, number)?.0.map(|header| header.first);
            let place = Place { spool: self.spool, segment: number, offset: HEADER as u64 };
            let scanner = Scanner::new(file, place, size, first);
            let partly = number == self.position.segment && path != spared;
            let until = if partly { self.position.offset } else { u64::MAX };
            return Ok(Reading { number, scanner, from, until });
        }
        Err(Error::Gone { path: kept })
    }
}

fn record(found: Found) -> Record {
    Record { ordinal: found.ordinal, appended_at: time(found.appended), payload: found.payload }
}

impl Iterator for Retained {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
