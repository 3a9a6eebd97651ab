//! What the writer and the consumer of a spool both know: its segments, how far it is taken care
//! of, what is damaged. And what either may do: tell of damage, and give up what is shipped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::checkpoint::Position;
use super::disk::{Disk, Held, read_around, unless_missing, write_whole};
use super::frame::{HEADER, SpoolId};
use super::layout::{Layout, damaged_segment, is_unreadable};
use super::recovery::damaged_files;
use super::survey::Damage;
use super::{Depth, Options};

/// How often somebody may have looked into the folder of what is damaged.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub spool: SpoolId,
    pub options: Options,
    /// Something is new for the consumer.
    pub changed: Notify,
    pub state: Mutex<State>,
    /// One at a time gives up what is shipped.
    pub tidying: Mutex<()>,
    pub _lock: LockFile,
}

/// The folder's lock, held for as long as this is there.
pub(super) struct LockFile(#[allow(dead_code)] pub Held);

impl std::fmt::Debug for LockFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockFile")
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// From the oldest to the newest.
    pub segments: VecDeque<Segment>,
    pub position: Position,
    /// The position is on disk for certain. Until it is, nothing is given up.
    pub noted: bool,
    pub oldest: Option<SystemTime>,
    /// What is kept, with its bytes and when it was shipped.
    pub shipped: BTreeMap<u64, (u64, SystemTime)>,
    /// Missing records that are not before `position`.
    pub missing: u64,
    /// Ordinals that lack and were never promised.
    pub unsure: Vec<Range<u64>>,
    /// Missing records that could not be read; the next try may find them.
    pub unreadable: Vec<Range<u64>>,
    pub damaged: Damaged,
    /// Nothing is appended any more.
    pub closed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub number: u64,
    /// Of the first record that is not taken care of, or is missing.
    pub first: u64,
    /// The ordinal behind its last.
    pub next: u64,
    /// Up to here its bytes are on disk and whole records, but for what is damaged.
    pub durable: u64,
    /// Where the part begins that is not taken care of.
    pub from: u64,
    /// Records that are not taken care of.
    pub waiting: u64,
    /// Nothing more is appended.
    pub sealed: bool,
}

/// What was set aside.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    /// Each with its bytes.
    pub files: HashMap<String, u64>,
    /// What is told and could not be set aside yet.
    pub due: Vec<Damage>,
    /// When the folder was looked at last.
    pub looked: Option<SystemTime>,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn depth(&self) -> Depth {
        let state = self.state();
        let due = &state.damaged.due;
        Depth {
            events: state.segments.iter().map(|segment| segment.waiting).sum(),
            bytes: state.bytes(),
            max_bytes: self.options.max_bytes,
            oldest: state.oldest,
            segments: state.segments.iter().filter(|segment| segment.waiting > 0).count() as u64,
            retained_bytes: state.shipped.values().map(|(bytes, _)| bytes).sum(),
            damaged_ranges: (state.damaged.files.len() + due.len()) as u64,
            damaged_bytes: state.damaged.files.values().sum::<u64>()
                + due.iter().map(|damage| damage.to - damage.from).sum::<u64>(),
            missing_records: state.position.missing + state.missing,
        }
    }

    /// Tells of damage that nobody knew of, and sets its bytes aside.
    pub fn damage(&self, damage: Damage) {
        let mut state = self.state();
        let name = damage.name();
        if state.damaged.files.contains_key(&name) || state.damaged.due.iter().any(|due| due.name() == name) {
            return;
        }
        let missing = damage.lost();
        state.missing += missing;
        // They were whole when they were counted.
        let segment = state.segments.iter_mut().find(|segment| segment.number == damage.segment);
        if let Some(segment) = segment {
            segment.waiting = segment.waiting.saturating_sub(missing);
        }
        state.damaged.due.push(damage.clone());
        drop(state);
        tell(&damage);
        let _one = self.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_aside();
    }

    /// A record of a segment was read. When it could not be before, it is none that is missing.
    pub fn found(&self, segment: u64, ordinal: u64) {
        let mut state = self.state();
        if state.unreadable.iter().any(|range| range.contains(&ordinal)) {
            state.missing = state.missing.saturating_sub(1);
            if let Some(segment) = state.segments.iter_mut().find(|known| known.number == segment) {
                segment.waiting += 1;
            }
        }
    }

    /// Sets aside what is due. What can't be stays due, and its segment stays.
    pub fn set_aside(&self) {
        let due = self.state().damaged.due.clone();
        for damage in due {
            match copy(&*self.disk, &self.layout, &damage) {
                Ok(bytes) => {
                    let mut state = self.state();
                    state.damaged.files.insert(damage.name(), bytes);
                    state.damaged.due.retain(|other| *other != damage);
                }
                Err(error) => tracing::warn!(
                    segment = damage.segment,
                    offset = damage.from,
                    %error,
                    "damaged bytes of the spool could not be set aside yet; their segment is kept"
                ),
            }
        }
    }

    /// Gives up segments that are wholly taken care of, or keeps them for a while, and removes what
    /// was kept for long enough. What fails is tried again the next time.
    pub fn tidy(&self) {
        let _one = self.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.state().damaged.due.is_empty() {
            self.set_aside();
        }
        self.look_again();
        loop {
            let drained = self.state().drained();
            let Some(number) = drained else { break };
            if let Err(error) = self.retire(number) {
                tracing::warn!(segment = number, %error, "a shipped segment of the spool stays for now");
                break;
            }
            self.state().segments.pop_front();
        }
        self.expire();
    }

    /// Once in a while: what a person has looked at and taken away counts no more.
    fn look_again(&self) {
        let now = self.disk.now();
        let age = self.state().damaged.looked.and_then(|last| now.duration_since(last).ok());
        if age.is_some_and(|age| age < LOOK_EVERY) {
            return;
        }
        let files = damaged_files(&*self.disk, &self.layout);
        let mut state = self.state();
        state.damaged.looked = Some(now);
        let Ok(files) = files else { return };
        if files.is_empty() && state.damaged.due.is_empty() {
            state.position.missing = 0;
        }
        state.damaged.files = files;
    }

    /// A segment leaves `segments/`. One that could not be read in places does not go for good.
    pub fn retire(&self, number: u64) -> io::Result<()> {
        let from = self.layout.segment(number);
        let Some(file) = unless_missing(self.disk.open(&from, false))? else { return Ok(()) };
        let (size, now) = (file.size()?, self.disk.now());
        if self.state().damaged.has_unreadable(number) {
            let to = self.layout.damaged_segment(number);
            self.disk.rename(&from, &to)?;
            tracing::warn!(
                segment = number,
                kept = %to.display(),
                "a segment of the spool is kept whole, since not all of it could be read"
            );
            self.disk.sync_dir(&self.layout.damaged())?;
        } else if self.options.retain.is_zero() || size <= HEADER as u64 {
            return unless_missing(self.disk.remove(&from)).map(drop);
        } else {
            // From now on it is kept, however long it waited.
            file.date(now)?;
            self.disk.rename(&from, &self.layout.shipped_segment(number))?;
            self.state().shipped.insert(number, (size, now));
            self.disk.sync_dir(&self.layout.shipped())?;
        }
        self.disk.sync_dir(&self.layout.segments())
    }

    /// What is kept goes when its time is over. Without a time nobody wanted it to go.
    fn expire(&self) {
        let (now, retain) = (self.disk.now(), self.options.retain);
        if retain.is_zero() {
            return;
        }
        let old = |last: &SystemTime| now.duration_since(*last).is_ok_and(|age| age >= retain);
        let shipped: Vec<u64> = self
            .state()
            .shipped
            .iter()
            .filter(|(_, (_, last))| old(last))
            .map(|(number, _)| *number)
            .collect();
        for number in shipped {
            match unless_missing(self.disk.remove(&self.layout.shipped_segment(number))) {
                Ok(_) => drop(self.state().shipped.remove(&number)),
                Err(error) => tracing::warn!(segment = number, %error, "a kept segment of the spool stays"),
            }
        }
    }
}

impl Damaged {
    fn has_unreadable(&self, segment: u64) -> bool {
        self.files.keys().any(|name| is_unreadable(name) && damaged_segment(name) == Some(segment))
    }
}

impl State {
    /// What waits, in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.durable.saturating_sub(segment.from)).sum()
    }

    /// The oldest segment, when it is wholly taken care of and its damage is set aside.
    fn drained(&self) -> Option<u64> {
        let first = self.segments.front()?;
        let passed = first.number <= self.position.segment && first.waiting == 0 && first.sealed;
        let due = self.damaged.due.iter().any(|damage| damage.segment == first.number);
        (self.noted && passed && !due).then_some(first.number)
    }

    /// The position once some records more are taken care of; `done` has, for each segment, how
    /// many of its records, and where the last of them ends, with its ordinal.
    pub fn after(&self, done: &BTreeMap<u64, (u64, u64, u64)>) -> Position {
        let (mut position, mut records) = (self.position, 0);
        for segment in &self.segments {
            let (count, offset, ordinal) = done.get(&segment.number).copied().unwrap_or_default();
            records += count;
            // What no record is left of is passed to its end, with what is damaged there.
            let passed = segment.waiting <= count;
            (position.segment, position.offset, position.ordinal) = match (passed, count) {
                (true, _) => (segment.number, segment.durable, segment.next),
                (false, 0) => break,
                (false, _) => (segment.number, offset, ordinal + 1),
            };
            if !passed {
                break;
            }
        }
        let ordinals = position.ordinal.saturating_sub(self.position.ordinal);
        let passed = |range: &Range<u64>| {
            range.end.min(position.ordinal).saturating_sub(range.start.max(self.position.ordinal))
        };
        let unsure: u64 = self.unsure.iter().map(passed).sum();
        position.missing += ordinals.saturating_sub(records + unsure);
        position
    }

    /// The position is on disk.
    pub fn advance(&mut self, position: Position, done: &BTreeMap<u64, (u64, u64, u64)>) {
        self.missing = self.missing.saturating_sub(position.missing.saturating_sub(self.position.missing));
        self.position = position;
        self.noted = true;
        for segment in self.segments.iter_mut().filter(|segment| segment.number <= position.segment) {
            let count = done.get(&segment.number).map_or(0, |(count, ..)| *count);
            segment.waiting = segment.waiting.saturating_sub(count);
            segment.from = if segment.number < position.segment { segment.durable } else { position.offset };
        }
    }

    /// Whether [`Shared::tidy`] has something to do.
    pub fn is_untidy(&self) -> bool {
        self.drained().is_some()
    }
}

/// A copy of damaged bytes, whole or not at all; zeros are where they could not be read.
fn copy(disk: &dyn Disk, layout: &Layout, damage: &Damage) -> io::Result<u64> {
    let to = layout.damaged().join(damage.name());
    let mut bytes = vec![0; (damage.to - damage.from) as usize];
    if !bytes.is_empty() {
        let file = disk.open(&layout.segment(damage.segment), false)?;
        let (read, _) = read_around(&*file, &mut bytes, damage.from)?;
        bytes.truncate(read);
    }
    write_whole(disk, &to, &bytes)?;
    Ok(bytes.len() as u64)
}

pub(super) fn tell(damage: &Damage) {
    let Damage { segment, from, to, missing, unreadable } = damage;
    let count = damage.lost();
    match count {
        _ if *unreadable > 0 => tracing::error!(
            segment,
            offset = from,
            bytes = to - from,
            unreadable,
            missing = count,
            "bytes of the spool could not be read; the copy of them has zeros, and their segment is kept \
             when the rest of it is shipped"
        ),
        0 => tracing::error!(
            segment,
            offset = from,
            bytes = to - from,
            "bytes of the spool are damaged and were set aside; no acknowledged record is known to be lost"
        ),
        _ => tracing::error!(
            segment,
            offset = from,
            bytes = to - from,
            missing = count,
            first_missing = missing.start,
            last_missing = missing.end - 1,
            "the spool is damaged: acknowledged records are missing"
        ),
    }
}
