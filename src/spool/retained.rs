//! What was shipped and is still kept, for a database that was restored from a backup. Reads beside
//! the process that uses the spool and changes nothing; a segment that goes meanwhile is left out,
//! since its time was over.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::checkpoint::{self, Position};
use super::disk::{Disk, unless_missing};
use super::frame::{HEADER, Place, SpoolId, millis, time};
use super::layout::Layout;
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
    since: u64,
    scanner: Option<(u64, Scanner)>,
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
    left.retain(|number| *number <= position.segment);
    left.extend(numbers(&*disk, &layout.shipped())?);
    left.sort_unstable_by(|a, b| b.cmp(a));
    left.dedup();
    let spool = spool.unwrap_or(SpoolId([0; 16]));
    Ok(Retained { disk, layout, spool, position, left, since: since.map_or(0, millis), scanner: None })
}

impl Retained {
    fn step(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some((number, scanner)) = &mut self.scanner else {
                let Some(number) = self.left.pop() else { return Ok(None) };
                self.scanner = self.begin(number)?.map(|scanner| (number, scanner));
                continue;
            };
            let number = *number;
            let step = scanner.next().map_err(Error::io("read", &self.layout.shipped_segment(number)));
            match step.inspect_err(|_| self.scanner = None)? {
                Step::Record(found) if number == self.position.segment && self.is_past(&found) => {
                    self.scanner = None;
                }
                Step::Record(found) if found.appended < self.since => {}
                Step::Record(found) => return Ok(Some(record(found))),
                Step::Damaged(stretch) if stretch.torn => {}
                Step::Damaged(stretch) => tracing::warn!(
                    segment = number,
                    offset = stretch.from,
                    bytes = stretch.to - stretch.from,
                    "bytes of a kept segment are damaged"
                ),
                Step::End => self.scanner = None,
            }
        }
    }

    fn is_past(&self, found: &Found) -> bool {
        found.offset >= self.position.offset
    }

    /// None: it is gone.
    fn begin(&self, number: u64) -> Result<Option<Scanner>, Error> {
        for path in [self.layout.segment(number), self.layout.shipped_segment(number)] {
            let file = unless_missing(self.disk.open(&path, false)).map_err(Error::io("open", &path))?;
            let Some(file) = file else { continue };
            let size = file.size().map_err(Error::io("read", &path))?;
            let first = header(&*file, &path, self.spool, number)?.map(|header| header.first);
            let place = Place { spool: self.spool, segment: number, offset: HEADER as u64 };
            return Ok(Some(Scanner::new(file, place, size, first)));
        }
        Ok(None)
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
