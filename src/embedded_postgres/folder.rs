//! The folder of one private PostgreSQL: who may use it, and what lies in it.
//!
//! ```text
//! DIR/rater-postgres.lock   held by the process that uses DIR; marks DIR as ours
//! DIR/data                  the data directory
//! DIR/password              of the database's superuser, for its owner's eyes only
//! DIR/socket                the Unix socket, in a folder closed to others
//! DIR/server.log            of this start; server.log.old is that of the one before
//! ```
//!
//! Root works here in a folder that belongs to somebody else, so it only ever creates files
//! that were not there: it follows no link that the owner may have laid out.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Error;
use super::account::Account;
use super::error::unless_missing;

const LOCK: &str = "rater-postgres.lock";

/// A folder that this process holds until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    pub root: PathBuf,
    pub account: Account,
    _lock: File,
}

impl Folder {
    /// Takes the folder, creating it when it is missing.
    pub fn claim(dir: &Path) -> Result<Folder, Error> {
        create(dir)?;
        let root = fs::canonicalize(dir).map_err(Error::io("find", dir))?;
        check_ours(&root)?;
        let account = Account::of(&root)?;
        let lock = take_lock(&root, &account)?;
        if let Some((uid, gid)) = account.ids {
            lchown(&root, Some(uid), Some(gid)).map_err(Error::io("hand over", &root))?;
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(Error::io("close", &root))?;
        account.check_reach(&root)?;
        Ok(Folder { root, account, _lock: lock })
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    pub fn password_file(&self) -> PathBuf {
        self.root.join("password")
    }

    /// The major version that wrote the data, where there is any.
    pub fn data_version(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    pub fn password(&self) -> Result<String, Error> {
        let file = self.password_file();
        let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
        Ok(text.trim().to_string())
    }

    /// A new random password in its file, for `initdb`.
    pub fn make_password(&self) -> Result<(), Error> {
        let file = self.password_file();
        let secret = format!("{}{}\n", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.make_file(&file)?.write_all(secret.as_bytes()).map_err(Error::io("write", &file))
    }

    /// A new file for the log; the one of the start before is kept beside it.
    pub fn make_log(&self) -> Result<File, Error> {
        let log = self.log();
        let kept = fs::rename(&log, self.root.join("server.log.old"));
        unless_missing(kept).map_err(Error::io("rename", &log))?;
        self.make_file(&log)
    }

    /// An empty folder for the Unix socket, or why there is none: PostgreSQL takes at most
    /// 107 bytes for a socket's path, macOS 103.
    pub fn make_socket_dir(&self) -> Result<Result<String, &'static str>, Error> {
        let dir = self.root.join("socket");
        unless_missing(fs::remove_dir_all(&dir)).map_err(Error::io("remove", &dir))?;
        DirBuilder::new().mode(0o700).create(&dir).map_err(Error::io("create", &dir))?;
        if let Some((uid, gid)) = self.account.ids {
            lchown(&dir, Some(uid), Some(gid)).map_err(Error::io("hand over", &dir))?;
        }
        Ok(match dir.to_str() {
            Some(text) if text.len() + "/.s.PGSQL.65535".len() <= 103 => Ok(text.to_string()),
            Some(_) => Err("the folder's path is too long for a Unix socket"),
            None => Err("the folder's path is not UTF-8"),
        })
    }

    /// A file that was not there, for the server's user alone.
    fn make_file(&self, path: &Path) -> Result<File, Error> {
        unless_missing(fs::remove_file(path)).map_err(Error::io("remove", path))?;
        create_private(path, &self.account).map_err(Error::io("create", path))
    }
}

/// Creates the folder closed to others, and its parents as usual.
fn create(dir: &Path) -> Result<(), Error> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::io("create", dir)(error)),
        _ => Ok(()),
    }
}

/// Ours is an empty folder, which we may take, and one with our lock file in it. A sticky one
/// is shared by design: taking `/tmp` over would break the machine.
fn check_ours(root: &Path) -> Result<(), Error> {
    let not_ours = || Error::NotOurs { dir: root.to_path_buf() };
    let mode = fs::metadata(root).map_err(Error::io("read", root))?.mode();
    if mode & 0o1000 != 0 {
        return Err(not_ours());
    }
    if root.join(LOCK).is_file() {
        return Ok(());
    }
    for entry in fs::read_dir(root).map_err(Error::io("read", root))? {
        // Every new ext4 volume has one.
        if entry.map_err(Error::io("read", root))?.file_name() != "lost+found" {
            return Err(not_ours());
        }
    }
    Ok(())
}

/// Takes the lock, which ends with the process, however that ends.
fn take_lock(root: &Path, account: &Account) -> Result<File, Error> {
    let path = root.join(LOCK);
    let mut lock = match create_private(&path, account) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
            let is_link = path.symlink_metadata().map_err(Error::io("read", &path))?.is_symlink();
            if is_link {
                return Err(Error::NotOurs { dir: root.into() });
            }
            file
        }
        other => other.map_err(Error::io("create", &path))?,
    };
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(Error::io("read", &path))?;
            let holder = match holder.trim() {
                "" => "another process".to_string(),
                pid => format!("process {pid}"),
            };
            return Err(Error::InUse { dir: root.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    lock.set_len(0).map_err(Error::io("write", &path))?;
    lock.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(Error::io("write", &path))?;
    Ok(lock)
}

fn create_private(path: &Path, account: &Account) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    if let Some((uid, gid)) = account.ids {
        fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(file)
}
