//! The folder on disk. A file in it is whole or not there: it is written beside its place, made
//! durable, and renamed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempPath;

use super::error::Error;
use super::file::{decode, encode};
use super::letter::Letter;

/// Whoever replays, mends or drops has it locked.
const LOCK: &str = ".lock";
/// Above any letter: an event of 4 MiB, each byte of it escaped.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// How long a write waits for another one to end.
const TURN: Duration = Duration::from_secs(2);
/// A file on its way that is older was left by a process that was killed.
const STALE: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
pub struct Folder {
    pub dir: PathBuf,
}

/// Why there is no letter.
pub enum Unread {
    Missing,
    Damaged(String),
    /// Not the letter's fault; it may be read later.
    Io(io::Error),
}

impl Folder {
    /// Every file, by its letter's id; what has no letter's name, by its own.
    pub fn names(&self) -> Result<BTreeMap<String, PathBuf>, Error> {
        let mut names = BTreeMap::new();
        self.each(|name, path| {
            let id = name.strip_suffix(".json").filter(|id| is_id(id));
            names.insert(id.unwrap_or(name).to_owned(), path);
        })?;
        Ok(names)
    }

    /// How many files there are.
    pub fn count(&self) -> Result<u64, Error> {
        let mut count = 0;
        self.each(|_, _| count += 1)?;
        Ok(count)
    }

    fn each(&self, mut seen: impl FnMut(&str, PathBuf)) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            // No letter was ever written here.
            Err(error) if error.kind() == ErrorKind::NotFound && self.spool().is_dir() => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::NoSpool(self.spool().into()));
            }
            Err(error) => return Err(io_error("read", &self.dir)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io_error("read", &self.dir))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name != LOCK && !is_temporary(&name) {
                seen(&name, entry.path());
            }
        }
        Ok(())
    }

    fn spool(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Where the letter of this id is. An id that is none is a file of that name in the folder, and
    /// nothing outside of it.
    pub fn path(&self, id: &str) -> Option<PathBuf> {
        if is_id(id) {
            return Some(self.dir.join(format!("{id}.json")));
        }
        if id.contains(char::REPLACEMENT_CHARACTER) {
            // A name that is no text.
            return self.names().ok()?.remove(id);
        }
        let plain = !id.is_empty() && !id.contains(['/', '\0']) && !matches!(id, "." | ".." | LOCK);
        plain.then(|| self.dir.join(id))
    }

    pub fn read(&self, id: &str) -> Result<Letter, Unread> {
        let path = self.path(id).ok_or(Unread::Missing)?;
        decode(id, &bytes(&path)?).map_err(Unread::Damaged)
    }

    /// Makes the folder, unless it is there.
    pub fn create(&self) -> Result<(), Error> {
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => {}
            // Whoever made it may have been killed before its name was durable.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return sync(self.spool()),
            Err(error) => return Err(io_error("make", &self.dir)(error)),
        }
        let folder = File::open(&self.dir).map_err(io_error("read", &self.dir))?;
        give_away(&folder, self.spool());
        // While there is room for it: who drops letters may do so because the disk is full.
        drop(self.lock_file());
        sync(self.spool())
    }

    /// Writes these, each in place of what is there. When it fails before the first is renamed,
    /// such as on a full disk, all stays as it was.
    pub fn write(&self, letters: &[Letter]) -> Result<(), Error> {
        let staged: Result<Vec<_>, Error> = letters.iter().map(|letter| self.stage(letter)).collect();
        for (temporary, place) in staged? {
            temporary.persist(&place).map_err(|error| io_error("write", &place)(error.error))?;
        }
        sync(&self.dir)
    }

    /// The letter on the disk, under another name. It is closed: there may be thousands.
    fn stage(&self, letter: &Letter) -> Result<(TempPath, PathBuf), Error> {
        let place = self.dir.join(format!("{}.json", letter.id));
        let written = || -> io::Result<TempPath> {
            let text = encode(letter)?;
            let prefix = format!(".{}.", letter.id);
            let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(&self.dir)?;
            file.write_all(text.as_bytes())?;
            give_away(file.as_file(), &self.dir);
            file.as_file().sync_all()?;
            Ok(file.into_temp_path())
        };
        written().map_err(io_error("write", &place)).map(|temporary| (temporary, place))
    }

    /// Takes these away; what is gone already is fine. How many were there.
    pub fn remove<'i>(&self, ids: impl IntoIterator<Item = &'i str>) -> Result<u64, Error> {
        let (mut removed, mut failed) = (0, None);
        for path in ids.into_iter().filter_map(|id| self.path(id)) {
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // One that can't go keeps no other.
                Err(error) => failed = failed.or(Some(io_error("remove", &path)(error))),
            }
        }
        if removed > 0 {
            sync(&self.dir)?;
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Gives what can't be read as a letter another name, since its own is needed: it stays for a
    /// person to look at.
    pub fn set_aside(&self, id: &str) -> Result<(), Error> {
        let (from, unique) = (self.dir.join(format!("{id}.json")), uuid::Uuid::now_v7().simple());
        let to = self.dir.join(format!("{id}.{unique}.damaged"));
        fs::rename(&from, &to).map_err(io_error("rename", &from))?;
        sync(&self.dir)
    }

    /// Waits for another process's write, so that none of two tries is forgotten; not for long,
    /// since one that was stopped in its middle must not stop this one.
    pub fn turn(&self) -> Option<File> {
        let folder = File::open(&self.dir).ok()?;
        let until = Instant::now() + TURN;
        loop {
            match folder.try_lock() {
                Ok(()) => return Some(folder),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return None,
            }
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.create(true).truncate(false).write(true).open(self.dir.join(LOCK))?;
        give_away(&file, &self.dir);
        Ok(file)
    }

    /// Keeps others from replaying, mending and dropping until the file is closed.
    pub fn lock(&self) -> Result<File, Error> {
        self.names()?;
        self.create()?;
        let path = self.dir.join(LOCK);
        let file = self.lock_file().map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(self.dir.clone())),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        self.sweep();
        Ok(file)
    }

    /// Clears away what killed processes left. It is in nobody's way, so nothing is told.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let old = entry.metadata().ok().and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
            if is_temporary(&entry.file_name().to_string_lossy()) && old.is_some_and(|old| old > STALE) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

/// What a file holds. Whatever stands there, it takes no more memory than a letter, and waits for
/// nobody.
fn bytes(path: &Path) -> Result<Vec<u8>, Unread> {
    let opened = fs::symlink_metadata(path).and_then(|metadata| match metadata.is_file() {
        true => File::open(path).map(Some),
        false => Ok(None),
    });
    let file = match opened {
        Ok(Some(file)) => file,
        Ok(None) => return Err(Unread::Damaged("is not a file".into())),
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::InvalidFilename => Unread::Missing,
                ErrorKind::PermissionDenied => Unread::Damaged(error.to_string()),
                _ => Unread::Io(error),
            });
        }
    };
    let mut bytes = Vec::new();
    match file.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
        Err(error) => Err(Unread::Damaged(error.to_string())),
        Ok(_) if bytes.len() as u64 > MAX_BYTES => {
            Err(Unread::Damaged(format!("is larger than {MAX_BYTES} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

/// 32 hex digits, as a letter's id is.
fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// To the owner of the folder that it is in: what root mends, the forwarder must be able to read.
fn give_away(file: &File, folder: &Path) {
    if let (Ok(folder), Ok(ours)) = (fs::metadata(folder), file.metadata())
        && (folder.uid(), folder.gid()) != (ours.uid(), ours.gid())
    {
        // Only root can.
        drop(fchown(file, Some(folder.uid()), Some(folder.gid())));
    }
}

fn sync(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { what, path, source }
}
