//! A disk in memory that forgets as real ones do. What was written and not synced is lost at a
//! power failure in any subset: blocks, lengths, names. A sync that fails leaves what it should have
//! written unwritten for ever, and says so once. It can be full, and fail at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::super::disk::{Disk, Entry, File, Held};
use super::Random;
use super::changes::Change;

#[derive(Debug, Clone, Default)]
pub struct Memory {
    files: BTreeMap<u64, Node>,
    /// Names as they are, and as they are on disk.
    names: BTreeMap<PathBuf, u64>,
    kept: BTreeMap<PathBuf, u64>,
    unsynced: Vec<Change>,
    folders: BTreeSet<PathBuf>,
    next: u64,
    /// Handles and locks of a process that ended are worth nothing.
    life: u64,
    locked: bool,
    pub killed: bool,
    pub millis: u64,
    /// Calls until one fails, and how.
    pub fail_in: Option<(u64, Fault)>,
    /// And so many calls after that one the process is killed.
    pub killed_in: Option<u64>,
    pub failed: u64,
    pub calls: u64,
    pub syncs: u64,
    pub capacity: Option<u64>,
    /// Writes and syncs of a file after one that failed, in the same process.
    pub retried: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// ENOSPC, for calls that may need room.
    NoSpace,
    /// EIO, for calls that change something.
    Broken,
    /// The process is killed in the middle of a call, and does nothing more.
    Killed,
}

#[derive(Debug, Clone, Default)]
struct Node {
    now: Vec<u8>,
    synced: Vec<u8>,
    dirty: Vec<Range<usize>>,
    modified: u64,
    failed: bool,
    /// What the disk can't read.
    bad: Option<Range<usize>>,
}

/// The disk of one process.
#[derive(Debug, Clone)]
pub struct MemoryDisk(pub Arc<Mutex<Memory>>, u64);

#[derive(Debug)]
struct Handle {
    disk: MemoryDisk,
    node: u64,
}

struct Lock(MemoryDisk);

impl MemoryDisk {
    pub fn new() -> MemoryDisk {
        let memory = Memory { millis: 1_800_000_000_000, ..Memory::default() };
        memory.into_disk()
    }

    pub fn get(&self) -> MutexGuard<'_, Memory> {
        // A test that fails is told by its own words.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy, as if nobody used it.
    pub fn fork(&self) -> MemoryDisk {
        let mut memory = self.get().clone();
        memory.locked = false;
        memory.into_disk()
    }

    /// The process was killed and another begins; nothing is lost.
    pub fn restart(&self) -> MemoryDisk {
        let mut memory = self.get();
        memory.life += 1;
        memory.locked = false;
        (memory.fail_in, memory.killed_in, memory.failed) = (None, None, 0);
        memory.killed = false;
        memory.files.values_mut().for_each(|node| node.failed = false);
        MemoryDisk(self.0.clone(), memory.life)
    }

    /// The power failed.
    pub fn crash(&self, random: &mut Random) -> MemoryDisk {
        self.get().forget(random);
        self.restart()
    }

    fn enter(&self, changes: bool, needs_room: bool) -> io::Result<MutexGuard<'_, Memory>> {
        let mut memory = self.get();
        if memory.life != self.1 || memory.killed {
            return Err(io::Error::other("of a process that ended"));
        }
        if changes && let Some(error) = memory.fails(needs_room) {
            return Err(error);
        }
        Ok(memory)
    }
}

impl Memory {
    fn into_disk(self) -> MemoryDisk {
        let life = self.life;
        MemoryDisk(Arc::new(Mutex::new(self)), life)
    }

    fn fails(&mut self, needs_room: bool) -> Option<io::Error> {
        self.calls += 1;
        let (left, fault) = self.fail_in?;
        if fault == Fault::NoSpace && !needs_room {
            return None;
        }
        let killed = || self.killed_in.map(|left| (left, Fault::Killed));
        self.fail_in = if left > 0 { Some((left - 1, fault)) } else { killed() };
        self.failed += u64::from(left == 0);
        self.killed = left == 0 && fault == Fault::Killed;
        (left == 0).then(|| match fault {
            Fault::NoSpace => no_space(),
            Fault::Broken | Fault::Killed => io::Error::from_raw_os_error(5),
        })
    }

    pub fn content(&mut self, path: &Path) -> &mut Vec<u8> {
        let node = self.names[path];
        &mut self.files.get_mut(&node).unwrap().now
    }

    /// From now on these bytes of a file can't be read; none: all of them can.
    pub fn spoil(&mut self, path: &Path, bad: Option<Range<usize>>) {
        let node = self.names[path];
        self.files.get_mut(&node).unwrap().bad = bad;
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    fn room(&self) -> u64 {
        let used: usize = self.names.values().map(|node| self.files[node].now.len()).sum();
        self.capacity.unwrap_or(u64::MAX).saturating_sub(used as u64)
    }

    fn forget(&mut self, random: &mut Random) {
        for node in self.files.values_mut() {
            let mut kept = node.synced.clone();
            let (short, long) = (kept.len().min(node.now.len()), kept.len().max(node.now.len()));
            kept.resize(short + random.below(long - short + 1), 0);
            for range in std::mem::take(&mut node.dirty) {
                let mut at = range.start;
                let all = random.below(3);
                while at < range.end {
                    let end = (at + 1 + random.below(64)).min(range.end);
                    if all == 0 || (all == 1 && random.below(2) == 0) {
                        let there = end.min(kept.len()).min(node.now.len());
                        if at < there {
                            kept[at..there].copy_from_slice(&node.now[at..there]);
                        }
                    }
                    at = end;
                }
            }
            node.now.clone_from(&kept);
            node.synced = kept;
        }
        for change in std::mem::take(&mut self.unsynced) {
            if random.below(2) == 0 {
                change.apply(&mut self.kept);
            }
        }
        self.names = self.kept.clone();
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

fn missing() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.get().millis)
    }

    fn lock(&self, _: &Path, _: bool) -> io::Result<Option<Held>> {
        let mut memory = self.enter(false, false)?;
        if std::mem::replace(&mut memory.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(self.clone()))))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut memory = self.enter(true, true)?;
        if memory.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if memory.room() == 0 {
            return Err(no_space());
        }
        memory.next += 1;
        let node = memory.next;
        let modified = memory.millis;
        memory.files.insert(node, Node { modified, ..Node::default() });
        memory.names.insert(path.to_path_buf(), node);
        memory.unsynced.push(Change::Made(path.to_path_buf(), node));
        Ok(Arc::new(Handle { disk: self.clone(), node }))
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn File>> {
        let node = *self.enter(false, false)?.names.get(path).ok_or_else(missing)?;
        Ok(Arc::new(Handle { disk: self.clone(), node }))
    }

    fn files(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let memory = self.enter(false, false)?;
        if !memory.folders.contains(dir) {
            return Err(missing());
        }
        let inside = memory.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(inside
            .map(|(path, node)| {
                let (name, node) = (path.file_name().unwrap().to_str().unwrap(), &memory.files[node]);
                let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(node.modified);
                Entry { name: name.into(), bytes: node.now.len() as u64, modified }
            })
            .collect())
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files(dir)?.into_iter().map(|entry| entry.name);
        let memory = self.get();
        let folders = memory.folders.iter().filter(|path| path.parent() == Some(dir));
        Ok(files.chain(folders.map(|path| path.file_name().unwrap().to_str().unwrap().into())).collect())
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        // Folders are there for good: a spool makes them once and syncs them.
        let made = self.enter(true, true)?.folders.insert(path.to_path_buf());
        made.then_some(()).ok_or_else(|| ErrorKind::AlreadyExists.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut memory = self.enter(true, true)?;
        let node = memory.names.remove(from).ok_or_else(missing)?;
        memory.names.insert(to.to_path_buf(), node);
        memory.unsynced.push(Change::Moved(from.to_path_buf(), to.to_path_buf(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.get().names.contains_key(path) {
            return Err(missing());
        }
        let mut memory = self.enter(true, false)?;
        memory.names.remove(path);
        memory.unsynced.push(Change::Gone(path.to_path_buf()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut memory = self.enter(true, true)?;
        let (done, rest) = std::mem::take(&mut memory.unsynced).into_iter().partition(|c| c.is_in(path));
        memory.unsynced = rest;
        let done: Vec<Change> = done;
        done.iter().for_each(|change| change.apply(&mut memory.kept));
        Ok(())
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.enter(false, false)?.room())
    }
}

impl File for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.enter(false, false)?.files[&self.node].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let memory = self.disk.enter(false, false)?;
        let wanted = offset as usize..offset as usize + bytes.len();
        let is_hit = |bad: &Range<usize>| bad.start < wanted.end && wanted.start < bad.end;
        if memory.files[&self.node].bad.as_ref().is_some_and(is_hit) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let rest = memory.files[&self.node].now.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.get().killed {
            return Err(missing());
        }
        let entered = self.disk.enter(true, true);
        let (mut memory, error) = match entered {
            Ok(memory) => (memory, None),
            Err(error) => (self.disk.get(), Some(error)),
        };
        if memory.life != self.disk.1 {
            return Err(error.unwrap_or_else(missing));
        }
        let (start, room, millis) = (offset as usize, memory.room() as usize, memory.millis);
        memory.retried += u64::from(memory.files[&self.node].failed);
        let node = memory.files.get_mut(&self.node).unwrap();
        // What fails may have written a part.
        let fits = (node.now.len() + room).saturating_sub(start).min(bytes.len());
        let count = if error.is_some() { fits / 2 } else { fits };
        if node.now.len() < start + count {
            node.now.resize(start + count, 0);
        }
        node.now[start..start + count].copy_from_slice(&bytes[..count]);
        node.dirty.push(start..start + count);
        node.modified = millis;
        let error = error.or_else(|| (count < bytes.len()).then(no_space));
        node.failed |= error.is_some();
        error.map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        let entered = self.disk.enter(true, true).map(drop);
        let mut memory = self.disk.get();
        if memory.life != self.disk.1 || memory.killed {
            return Err(missing());
        }
        memory.syncs += 1;
        memory.retried += u64::from(memory.files[&self.node].failed);
        let node = memory.files.get_mut(&self.node).unwrap();
        let dirty = std::mem::take(&mut node.dirty);
        if let Err(error) = entered {
            // The kernel takes the pages for clean.
            node.failed = true;
            return Err(error);
        }
        node.synced.resize(node.now.len(), 0);
        for range in dirty {
            let range = range.start.min(node.now.len())..range.end.min(node.now.len());
            node.synced[range.clone()].copy_from_slice(&node.now[range]);
        }
        Ok(())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        let mut memory = self.disk.enter(true, false)?;
        memory.files.get_mut(&self.node).unwrap().now.truncate(bytes as usize);
        Ok(())
    }

    fn date(&self, time: SystemTime) -> io::Result<()> {
        let mut memory = self.disk.enter(true, false)?;
        let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        memory.files.get_mut(&self.node).unwrap().modified = millis;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut memory = self.0.get();
        if memory.life == self.0.1 {
            memory.locked = false;
        }
    }
}
