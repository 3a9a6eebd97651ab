//! Opens a spool's folder: makes it when it is missing, takes its lock, finds out which spool it
//! is, and brings what a crash or damage left behind in order. Nothing that is there is written
//! over, and nothing is cut off that could be a record.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::checkpoint::{Checkpoint, Position};
use super::consumer::Reader;
use super::disk::{Disk, Held, read_around, unless_missing, write_again, write_whole};
use super::frame::{HEADER, IDENTITY, SegmentHeader, SpoolId, Told, time};
use super::layout::{Layout, damaged_segment, is_ours, segment_number};
use super::shared::{Damaged, LockFile, Segment, Shared, State, tell};
use super::survey::{self, Damage, Looked, Survey};
use super::writer::Writer;
use super::{Error, Options};

/// Those who only look hold the lock for an instant.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Opens the spool: the two ends of it, without the thread between them.
pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Writer, Reader), Error> {
    make_root(&*disk, dir)?;
    let layout = Layout { root: dir.to_path_buf() };
    check_ours(&*disk, &layout)?;
    let lock = take_lock(&*disk, &layout)?;
    let spool = match find_identity(&*disk, &layout)? {
        Some(spool) => spool,
        None => make_identity(&*disk, &layout)?,
    };
    for folder in [layout.segments(), layout.shipped(), layout.damaged()] {
        match disk.make_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &folder)(error));
            }
            _ => {}
        }
    }
    disk.sync_dir(&layout.root).map_err(Error::io("sync", &layout.root))?;
    let damaged = damaged_files(&*disk, &layout)?;
    let (mut checkpoint, last) = Checkpoint::open(&disk, &layout, spool)?;
    let last_segment = last.map_or(0, |last| last.segment);
    let next_segment = 1 + highest(&*disk, &layout, &damaged)?.max(last_segment);
    let found = survey::survey(&*disk, &layout, spool, last, false)?;
    let settled = checkpoint.settle();
    if let Err(error) = &settled {
        tracing::warn!(%error, "the spool's checkpoint could not be made sure of; what is shipped stays for now");
    }
    if last.is_none() && !found.segments.is_empty() {
        tracing::warn!("the spool's checkpoint is gone; everything in it is shipped again");
    }
    let position = begin(last, &found, damaged.is_empty());
    let changed = Some(position) != last;
    if changed {
        checkpoint.write(position)?;
    }
    let state = State {
        oldest: found.oldest.map(time),
        position,
        noted: changed || settled.is_ok(),
        damaged: Damaged { files: damaged, due: Vec::new(), looked: Some(disk.now()) },
        ..State::default()
    };
    let shared = Arc::new(Shared {
        disk,
        layout,
        spool,
        options,
        changed: Notify::new(),
        state: Mutex::new(state),
        tidying: Mutex::new(()),
        _lock: LockFile(lock),
    });
    let unsure = found.segments.last().and_then(|last| last.unsure.first()).map(|range| range.start);
    let (next_ordinal, unsettled) = shared.adopt(found)?;
    let unsure = unsure.into_iter().chain(unsettled).min();
    let reader = Reader::new(shared.clone(), checkpoint);
    Ok((Writer::new(shared, next_segment, next_ordinal, unsure), reader))
}

/// The folder, closed to others, and its parents as usual; each name on disk.
fn make_root(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match disk.make_dir(dir) {
        Ok(()) => disk.sync_dir(parent).map_err(Error::io("sync", parent)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != Path::new(".") => {
            make_root(disk, parent)?;
            disk.make_dir(dir).map_err(Error::io("create", dir))?;
            disk.sync_dir(parent).map_err(Error::io("sync", parent))
        }
        Err(error) => Err(Error::io("create", dir)(error)),
    }
}

/// Ours is a spool, and a folder with nothing but what a spool has.
pub(super) fn check_ours(disk: &dyn Disk, layout: &Layout) -> Result<(), Error> {
    let names = disk.names(&layout.root).map_err(Error::io("read", &layout.root))?;
    let known = names.iter().any(|name| name == "identity") || names.iter().all(|name| is_ours(name));
    known.then_some(()).ok_or_else(|| Error::NotASpool { dir: layout.root.clone() })
}

fn take_lock(disk: &dyn Disk, layout: &Layout) -> Result<Held, Error> {
    let path = layout.lock();
    for tried in 0..LOCK_TRIES {
        if tried > 0 {
            std::thread::sleep(LOCK_PAUSE);
        }
        if let Some(held) = disk.lock(&path, false).map_err(Error::io("lock", &path))? {
            return Ok(held);
        }
    }
    Err(Error::InUse { dir: layout.root.clone() })
}

/// Which spool this is: by its file, else by what its segments say. None: it is new.
pub(super) fn find_identity(disk: &dyn Disk, layout: &Layout) -> Result<Option<SpoolId>, Error> {
    let path = layout.identity();
    let file = unless_missing(disk.open(&path, false)).map_err(Error::io("open", &path))?;
    if let Some(file) = file {
        let mut bytes = [0; 2 * IDENTITY];
        let read = file.read_at(&mut bytes, 0).map_err(Error::io("read", &path))?;
        match SpoolId::decode(&bytes[..read]) {
            Told::Whole(spool) => return Ok(Some(spool)),
            Told::Newer(version) => return Err(Error::Newer { path, version }),
            Told::Damaged => {}
        }
    }
    let mut segments = 0;
    for (folder, of) in [
        (layout.segments(), Layout::segment as fn(&Layout, u64) -> _),
        (layout.shipped(), Layout::shipped_segment),
    ] {
        for number in survey::numbers(disk, &folder)? {
            segments += 1;
            let path = of(layout, number);
            let mut bytes = [0; HEADER];
            let file = disk.open(&path, false).map_err(Error::io("open", &path))?;
            let (read, _) = read_around(&*file, &mut bytes, 0).map_err(Error::io("read", &path))?;
            if let Told::Whole(header) = SegmentHeader::decode(&bytes[..read]) {
                tracing::warn!("the spool's identity was taken from its segment {number}");
                return Ok(Some(header.spool));
            }
        }
    }
    if segments > 0 {
        return Err(Error::NoIdentity { dir: layout.root.clone() });
    }
    Ok(None)
}

fn make_identity(disk: &dyn Disk, layout: &Layout) -> Result<SpoolId, Error> {
    let spool = SpoolId(*uuid::Uuid::new_v4().as_bytes());
    let path = layout.identity();
    write_whole(disk, &path, &spool.encode()).map_err(Error::io("write", &path))?;
    Ok(spool)
}

/// What was set aside, with its bytes. What was not finished is left out.
pub(super) fn damaged_files(disk: &dyn Disk, layout: &Layout) -> Result<HashMap<String, u64>, Error> {
    let dir = layout.damaged();
    let files = unless_missing(disk.files(&dir)).map_err(Error::io("read", &dir))?.unwrap_or_default();
    Ok(files
        .into_iter()
        .filter(|file| damaged_segment(&file.name).is_some())
        .map(|file| (file.name, file.bytes))
        .collect())
}

/// The highest number of a segment that is or was here, as far as can be seen.
fn highest(disk: &dyn Disk, layout: &Layout, damaged: &HashMap<String, u64>) -> Result<u64, Error> {
    let mut highest = damaged.keys().filter_map(|name| damaged_segment(name)).max().unwrap_or(0);
    for folder in [layout.segments(), layout.shipped(), layout.damaged()] {
        let files = disk.files(&folder).map_err(Error::io("read", &folder))?;
        let numbers = files.iter().filter_map(|file| segment_number(&file.name));
        highest = highest.max(numbers.max().unwrap_or(0));
    }
    Ok(highest)
}

/// Where the spool goes on. `looked_at`: somebody has emptied the folder of what is damaged.
fn begin(last: Option<Position>, found: &Survey, looked_at: bool) -> Position {
    let first = found.segments.first();
    let start =
        || Position { ordinal: first.map_or(1, |first| first.ordinals.start.max(1)), ..Position::default() };
    let mut position = last.unwrap_or_else(start);
    if looked_at {
        position.missing = 0;
    }
    position
}

impl Shared {
    /// Takes over what was found, and says which ordinal comes next, and from which one on nobody
    /// can be sure that what was read is on disk.
    fn adopt(&self, found: Survey) -> Result<(u64, Option<u64>), Error> {
        let mut next = self.state().position.ordinal.max(1);
        let mut unsettled = None;
        for looked in &found.segments {
            for damage in &looked.damages {
                self.adopt_damage(damage);
            }
            // Those before the last one were settled when it was begun.
            if !self.settle(looked) && looked.last {
                unsettled.get_or_insert(looked.ordinals.start);
            }
            self.state().unsure.extend(looked.unsure.iter().cloned());
            next = next.max(looked.ordinals.end);
            if looked.hidden > 0 {
                unsettled = Some(unsettled.unwrap_or(next).min(next));
                self.state().unsure.push(next..next + looked.hidden);
                next += looked.hidden;
            }
            self.state().segments.push_back(Segment {
                number: looked.number,
                first: looked.ordinals.start,
                next,
                durable: looked.end,
                from: looked.from,
                waiting: looked.records,
                sealed: true,
            });
        }
        self.set_aside();
        let segments = self.layout.segments();
        self.disk.sync_dir(&segments).map_err(Error::io("sync", &segments))?;
        self.retire_old()?;
        Ok((next, unsettled))
    }

    fn adopt_damage(&self, damage: &Damage) {
        let mut state = self.state();
        state.missing += damage.lost();
        if damage.unreadable > 0 {
            state.unreadable.push(damage.missing.clone());
        }
        if !state.damaged.files.contains_key(&damage.name()) {
            tell(damage);
            state.damaged.due.push(damage.clone());
        }
    }

    /// What was read is on disk, and a write that was never finished is cut off. Where that can't
    /// be it does no harm: nothing behind the last record is ever read. The last write is written
    /// anew: the process before may have been killed after its sync had failed.
    fn settle(&self, looked: &Looked) -> bool {
        let path = self.layout.segment(looked.number);
        let result = self.disk.open(&path, true).and_then(|file| {
            if looked.cut && self.kept_first(looked) {
                tracing::info!(
                    segment = looked.number,
                    offset = looked.end,
                    bytes = looked.size - looked.end,
                    "an unfinished write at the end of a segment of the spool is cut off"
                );
                file.cut(looked.end)?;
            }
            for stretch in &looked.last_write {
                write_again(&*file, stretch.clone())?;
            }
            file.sync()
        });
        result
            .inspect_err(|error| {
                tracing::warn!(segment = looked.number, %error, "a segment of the spool could not be settled");
            })
            .is_ok()
    }

    /// What is cut off and could be more than an unfinished write is set aside before.
    fn kept_first(&self, looked: &Looked) -> bool {
        let at_the_end = |damage: &Damage| damage.segment == looked.number && damage.to > looked.end;
        if self.state().damaged.due.iter().any(at_the_end) {
            self.set_aside();
        }
        !self.state().damaged.due.iter().any(at_the_end)
    }

    /// Segments that were taken care of when the process before ended, and what it kept.
    fn retire_old(&self) -> Result<(), Error> {
        let shipped = self.layout.shipped();
        for file in self.disk.files(&shipped).map_err(Error::io("read", &shipped))? {
            if let Some(number) = segment_number(&file.name) {
                self.state().shipped.insert(number, (file.bytes, file.modified));
            }
        }
        let kept = self.state().shipped.len();
        if kept > 0 && self.options.retain.is_zero() {
            tracing::info!(
                segments = kept,
                folder = %shipped.display(),
                "what an earlier run kept of what it shipped stays: remove its files, or start with --retain, \
                 to be rid of it"
            );
        }
        if !self.state().noted {
            return Ok(());
        }
        let live: Vec<u64> = self.state().segments.iter().map(|segment| segment.number).collect();
        for number in survey::numbers(&*self.disk, &self.layout.segments())? {
            if live.contains(&number) {
                continue;
            }
            if let Err(error) = self.retire(number) {
                tracing::warn!(segment = number, %error, "a shipped segment of the spool stays for now");
            }
        }
        Ok(())
    }
}
