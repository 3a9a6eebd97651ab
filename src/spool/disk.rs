//! What a spool asks of a disk. A trait, so that tests can put one in its place that fails and
//! forgets as real ones do: a write is safe only after [`File::sync`], a new, renamed or removed
//! name only after [`Disk::sync_dir`].

use std::any::Any;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::layout::temporary;

/// What is read at once where a larger piece can't be: a block of most disks.
const BLOCK: u64 = 4096;

/// How much is written again at once.
const PIECE: usize = 256 * 1024;

/// A lock, held until it is dropped.
pub(super) type Held = Box<dyn Any + Send + Sync>;

/// A file in a folder.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// An open file.
pub(super) trait File: Send + Sync + Debug {
    fn size(&self) -> io::Result<u64>;
    /// As much as there is; 0 at the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// What was written, and the file's length, are on disk when this returns.
    fn sync(&self) -> io::Result<()>;
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// From now on it says that it was changed at `time`, also after a power failure.
    fn date(&self, time: SystemTime) -> io::Result<()>;
}

/// A disk with its folders.
pub(super) trait Disk: Send + Sync + Debug {
    /// The machine's clock, which may go back.
    fn now(&self) -> SystemTime;
    /// None: somebody else holds it. `shared` ones go together, and need a file that is there.
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Held>>;
    /// A file that was not there, for its owner alone.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;
    /// What is in a folder, folders left out.
    fn files(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// The names of everything in a folder.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// A folder for its owner alone.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Over what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// How many bytes may still be written to the file system of a folder.
    fn free(&self, dir: &Path) -> io::Result<u64>;
}

/// The one of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Held>> {
        if !shared {
            match self.create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let file = OpenOptions::new().read(true).write(!shared).open(path)?;
        let tried = if shared { file.try_lock_shared() } else { file.try_lock() };
        match tried {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        give_away(&file, path);
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(write).open(path)?))
    }

    fn files(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => {
                    found.push(Entry { name, bytes: meta.len(), modified: meta.modified()? });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(found)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        let alone = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
        if let Ok(folder) = OpenOptions::new().read(true).custom_flags(alone).open(path) {
            give_away(&folder, path);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        let room = rustix::fs::statvfs(dir)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// What root makes in somebody else's folder is theirs, or their forwarder could not go on with it.
/// Only for what was just made: a name that was there could be anybody's link to anything.
fn give_away(file: &fs::File, path: &Path) {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let (Ok(folder), Ok(ours)) = (fs::metadata(parent), file.metadata())
        && ours.uid() == 0
        && folder.uid() != 0
    {
        drop(fchown(file, Some(folder.uid()), Some(folder.gid())));
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < bytes.len() {
            match FileExt::read_at(self, &mut bytes[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn date(&self, time: SystemTime) -> io::Result<()> {
        self.set_modified(time)?;
        self.sync_all()
    }
}

/// Reads as [`File::read_at`] does, but around what the disk can't read: zeros are in its place, and
/// the ranges say where. A call that can't read anything for another reason than the disk fails.
pub(super) fn read_around(
    file: &dyn File,
    bytes: &mut [u8],
    offset: u64,
) -> io::Result<(usize, Vec<Range<u64>>)> {
    match file.read_at(bytes, offset) {
        Ok(read) => return Ok((read, Vec::new())),
        Err(error) if error.raw_os_error().is_none() => return Err(error),
        Err(_) => {}
    }
    let end = file.size()?.min(offset + bytes.len() as u64);
    let (mut at, mut unreadable) = (offset, Vec::<Range<u64>>::new());
    while at < end {
        let next = ((at / BLOCK + 1) * BLOCK).min(end);
        let block = &mut bytes[(at - offset) as usize..(next - offset) as usize];
        if file.read_at(block, at).is_err() {
            block.fill(0);
            match unreadable.last_mut() {
                Some(last) if last.end == at => last.end = next,
                _ => unreadable.push(at..next),
            }
        }
        at = next;
    }
    Ok((end.saturating_sub(offset) as usize, unreadable))
}

/// Writes anew what is read at `range`, for the next sync: alone it says yes to what the failed sync of a
/// process before has given up.
pub(super) fn write_again(file: &dyn File, range: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; PIECE.min((range.end - range.start) as usize)];
    let mut at = range.start;
    while at < range.end {
        let count = bytes.len().min((range.end - at) as usize);
        if file.read_at(&mut bytes[..count], at)? < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_at(&bytes[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

/// Writes a file that is there whole, with its name, or not at all; whatever was there goes.
pub(super) fn write_whole(disk: &dyn Disk, to: &Path, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    let new = temporary(to);
    let dir = to.parent().unwrap_or(Path::new("."));
    let written = (|| {
        unless_missing(disk.remove(&new))?;
        let file = disk.create(&new)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        disk.rename(&new, to)?;
        disk.sync_dir(dir)?;
        Ok(file)
    })();
    if written.is_err() {
        // It may hold the last bytes of a full disk.
        drop(disk.remove(&new));
    }
    written
}

/// Takes it as done when what was to be opened, removed or renamed is not there.
pub(super) fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
