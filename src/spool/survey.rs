//! A look at everything in a spool that is not taken care of, which changes nothing: which records
//! are whole, which bytes are none, which ordinals are missing.
//!
//! Segments are looked at from the newest to the oldest: where one begins says where the ones
//! before it end. Whole frames past that were never acknowledged; ordinals that lack are lost.

use std::io;
use std::ops::Range;

use super::Error;
use super::checkpoint::Position;
use super::disk::{Disk, read_around, unless_missing};
use super::frame::{FRAME, HEADER, Place, SegmentHeader, SpoolId, Told};
use super::layout::{Layout, damaged_name, segment_number};
use super::scan::{Scanner, Step};

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// From the oldest to the newest, those that are wholly taken care of left out.
    pub segments: Vec<Looked>,
    /// When the first record was appended.
    pub oldest: Option<u64>,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Looked {
    pub number: u64,
    pub size: u64,
    /// Where the part begins that is not taken care of.
    pub from: u64,
    /// Where its last whole record ends; nothing behind it is a record.
    pub end: u64,
    /// The ordinals from the first that is not taken care of to behind the last.
    pub ordinals: Range<u64>,
    /// Whole records that are not taken care of.
    pub records: u64,
    pub damages: Vec<Damage>,
    /// Bytes behind the last record are there to be cut off. Where acknowledged records were lost
    /// with them they stay, or the loss would look like another one the next time; so do bytes that
    /// could not be read, which may be records.
    pub cut: bool,
    /// Ordinals that lack and may: of a write that was not finished when the power failed.
    pub unsure: Vec<Range<u64>>,
    /// How many records at most are in what can't be read behind the last one.
    pub hidden: u64,
    /// The last of all: no later segment says what of it was acknowledged.
    pub last: bool,
    /// Where the whole records lie of the last write of all, which alone may not be on disk.
    pub last_write: Vec<Range<u64>>,
    /// Records before this one, in earlier segments, were acknowledged.
    certain: Option<u64>,
    first_appended: Option<u64>,
}

/// Bytes of a segment that are no whole record, and the ordinals that were lost with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub segment: u64,
    pub from: u64,
    pub to: u64,
    pub missing: Range<u64>,
    /// How many of the bytes the disk could not read.
    pub unreadable: u64,
}

impl Damage {
    /// The file that the bytes are set aside in.
    pub fn name(&self) -> String {
        damaged_name(self.segment, self.from, self.to, self.unreadable > 0)
    }

    /// How many records were lost.
    pub fn lost(&self) -> u64 {
        self.missing.end.saturating_sub(self.missing.start)
    }
}

impl Survey {
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end - segment.from).sum()
    }

    pub fn damages(&self) -> impl Iterator<Item = &Damage> {
        self.segments.iter().flat_map(|segment| &segment.damages)
    }
}

/// The numbers of the segments in a folder, in order.
pub(super) fn numbers(disk: &dyn Disk, dir: &std::path::Path) -> Result<Vec<u64>, Error> {
    let files = unless_missing(disk.files(dir)).map_err(Error::io("read", dir))?.unwrap_or_default();
    let mut numbers: Vec<u64> = files.iter().filter_map(|file| segment_number(&file.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Looks at the segments that `position` leaves. `live`: a process is at work in it meanwhile.
pub(super) fn survey(
    disk: &dyn Disk,
    layout: &Layout,
    spool: SpoolId,
    position: Option<Position>,
    live: bool,
) -> Result<Survey, Error> {
    let start = position.unwrap_or_default();
    let mut found = Survey::default();
    let (mut limit, mut certain) = (None, None);
    for number in numbers(disk, &layout.segments())?.into_iter().rev() {
        if number < start.segment {
            break;
        }
        let at = (number == start.segment).then_some((start.offset, start.ordinal));
        let Some(mut looked) = look(disk, layout, Asked { spool, number, at, limit, certain, live })? else {
            continue;
        };
        limit = Some(looked.ordinals.start).filter(|first| *first > 0).or(limit);
        certain = looked.certain.or(limit);
        if let Some(at) = looked.first_appended {
            found.oldest = Some(at);
        }
        looked.damages.retain(|damage| damage.from < damage.to || !damage.missing.is_empty());
        found.segments.push(looked);
    }
    found.segments.reverse();
    // A whole segment that is gone from the front.
    if let (Some(first), Some(position), false) = (found.segments.first_mut(), position, live)
        && first.number > position.segment
        && first.ordinals.start > position.ordinal
    {
        let missing = position.ordinal..first.ordinals.start;
        let damage = Damage { segment: first.number, from: 0, to: 0, missing, unreadable: 0 };
        first.damages.insert(0, damage);
    }
    Ok(found)
}

struct Asked {
    spool: SpoolId,
    number: u64,
    /// Where to begin, when not behind the header, and with which ordinal.
    at: Option<(u64, u64)>,
    /// Where the next segment begins.
    limit: Option<u64>,
    /// Up to where records were acknowledged for certain.
    certain: Option<u64>,
    live: bool,
}

/// One segment; None when it is gone meanwhile.
fn look(disk: &dyn Disk, layout: &Layout, asked: Asked) -> Result<Option<Looked>, Error> {
    let Asked { spool, number, at, limit, certain, live } = asked;
    let path = layout.segment(number);
    let fail = |error| Error::io("read", &path)(error);
    let Some(file) = unless_missing(disk.open(&path, false)).map_err(fail)? else { return Ok(None) };
    let size = file.size().map_err(fail)?;
    let (header, unreadable) = header(&*file, &path, spool, number)?;
    let behind = size.min(HEADER as u64);
    let (from, expected) = match at {
        Some((offset, ordinal)) if offset >= HEADER as u64 => (offset.min(size), Some(ordinal)),
        _ => (behind, header.map(|header| header.first)),
    };
    let mut damages = Vec::new();
    if header.is_none() && size >= HEADER as u64 {
        damages.push(Damage { segment: number, from: 0, to: HEADER as u64, missing: 0..0, unreadable });
    }
    let place = Place { spool, segment: number, offset: from };
    let scanner = Scanner::new(file, place, size, expected);
    let mut walk = Walk { number, expected, first: expected, limit, damages, end: from, ..Walk::default() };
    let tail = walk.all(scanner, from, size).map_err(fail)?;
    let end_ordinal = walk.expected.or(limit).unwrap_or(0);
    let first = walk.first.or(limit).unwrap_or(0);
    let lost = limit.filter(|limit| walk.expected.is_some_and(|expected| expected < *limit));
    if limit.is_none() {
        walk.spare_last_write();
    }
    if let Some(limit) = lost {
        walk.damaged(walk.end..size, end_ordinal..limit, tail.unreadable());
    } else if limit.is_none() && tail != Tail::Nothing && !live {
        walk.damaged(walk.end..size, 0..0, tail.unreadable());
    }
    // How many records are in there nobody knows. With ordinals of their own they are still what they
    // are when they can be read one day.
    let hidden = match limit {
        None if tail.unreadable() > 0 => (size - walk.end) / FRAME as u64 + 1,
        _ => 0,
    };
    walk.spare_from(certain);
    Ok(Some(Looked {
        number,
        size,
        from,
        end: walk.end,
        ordinals: first..lost.unwrap_or(end_ordinal),
        hidden,
        last: limit.is_none(),
        last_write: if limit.is_none() { walk.last_write } else { Vec::new() },
        records: walk.records,
        damages: walk.damages,
        cut: walk.end < size && lost.is_none() && tail.unreadable() == 0,
        unsure: walk.unsure,
        certain: header.map(|header| header.first.saturating_sub(u64::from(header.unsure))),
        first_appended: walk.appended,
    }))
}

/// The header, if it is whole, and how much of it can't be read. One that is whole and not this
/// segment's is refused.
pub(super) fn header(
    file: &dyn super::disk::File,
    path: &std::path::Path,
    spool: SpoolId,
    number: u64,
) -> Result<(Option<SegmentHeader>, u64), Error> {
    let mut bytes = [0; HEADER];
    let (read, unreadable) = read_around(file, &mut bytes, 0).map_err(Error::io("read", path))?;
    match SegmentHeader::decode(&bytes[..read]) {
        Told::Newer(version) => Err(Error::Newer { path: path.to_path_buf(), version }),
        Told::Whole(header) if header.spool != spool || header.number != number => {
            Err(Error::Foreign { path: path.to_path_buf() })
        }
        Told::Whole(header) => Ok((Some(header), 0)),
        Told::Damaged => Ok((None, unreadable.iter().map(|range| range.end - range.start).sum())),
    }
}

/// What lies behind the last whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing, or a write that was never finished, or frames that were never acknowledged.
    Nothing,
    /// A write that was never finished, or damage, with so many bytes that can't be read.
    Unclear(u64),
}

impl Tail {
    fn unreadable(self) -> u64 {
        match self {
            Tail::Nothing => 0,
            Tail::Unclear(unreadable) => unreadable,
        }
    }
}

#[derive(Debug, Default)]
struct Walk {
    number: u64,
    expected: Option<u64>,
    first: Option<u64>,
    limit: Option<u64>,
    end: u64,
    records: u64,
    appended: Option<u64>,
    damages: Vec<Damage>,
    /// How many of those lie before the last frame that began a write: that much was on disk once.
    written: usize,
    /// Stretches of whole frames from that frame on.
    last_write: Vec<Range<u64>>,
    unsure: Vec<Range<u64>>,
}

impl Walk {
    fn damaged(&mut self, bytes: Range<u64>, missing: Range<u64>, unreadable: u64) {
        let Range { start: from, end: to } = bytes;
        self.damages.push(Damage { segment: self.number, from, to, missing, unreadable });
    }

    /// Nothing tells a hole in the last write of all from one that the power failure left in it, but
    /// that it can't be read.
    fn spare_last_write(&mut self) {
        for damage in self.damages[self.written..].iter_mut().filter(|damage| damage.unreadable == 0) {
            self.unsure.push(std::mem::replace(&mut damage.missing, 0..0));
        }
    }

    /// A later segment says what was unsure when it began.
    fn spare_from(&mut self, certain: Option<u64>) {
        let Some(certain) = certain else { return };
        for Range { start, end } in self.damages.iter_mut().map(|damage| &mut damage.missing) {
            if certain < *end {
                self.unsure.push(certain.max(*start)..*end);
                *end = certain.max(*start);
            }
        }
    }

    fn all(&mut self, mut scanner: Scanner, from: u64, size: u64) -> io::Result<Tail> {
        let (mut before, mut unreadable) = (from..from, 0);
        loop {
            match scanner.next()? {
                Step::Damaged(stretch) if stretch.to < size => {
                    (before, unreadable) = (stretch.from..stretch.to, stretch.unreadable);
                }
                Step::Damaged(stretch) if stretch.torn => return Ok(Tail::Nothing),
                Step::Damaged(stretch) => return Ok(Tail::Unclear(stretch.unreadable)),
                Step::End => return Ok(Tail::Nothing),
                // The next segment has this ordinal: the write failed and was not acknowledged.
                Step::Record(found) if self.limit.is_some_and(|limit| found.ordinal >= limit) => {
                    return Ok(Tail::Nothing);
                }
                Step::Record(found) => {
                    if !before.is_empty() {
                        self.damaged(
                            before,
                            self.expected.unwrap_or(found.ordinal)..found.ordinal,
                            unreadable,
                        );
                    }
                    if found.begins {
                        self.written = self.damages.len();
                        self.last_write.clear();
                    }
                    match self.last_write.last_mut() {
                        Some(stretch) if stretch.end == found.offset => stretch.end = found.after,
                        _ => self.last_write.push(found.offset..found.after),
                    }
                    before = found.after..found.after;
                    self.first.get_or_insert(found.ordinal);
                    self.expected = Some(found.ordinal + 1);
                    self.appended.get_or_insert(found.appended);
                    self.records += 1;
                    self.end = found.after;
                }
            }
        }
    }
}
