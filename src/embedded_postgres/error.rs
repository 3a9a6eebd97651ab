//! Why a private PostgreSQL did not start: one line that says what to do, and the tail of
//! the log where PostgreSQL itself said no.

use std::path::{Path, PathBuf};

use super::MINIMUM_MAJOR;

/// A private PostgreSQL that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No binaries in any of the places.
    #[error(
        "no PostgreSQL found in PATH, /usr/lib/postgresql or Homebrew's folders: install version \
         {MINIMUM_MAJOR} or later with `apt-get install postgresql` or `brew install postgresql@16`"
    )]
    NotInstalled,
    /// Binaries, but all of them too old.
    #[error(
        "PostgreSQL {newest} is too old: install version {MINIMUM_MAJOR} or later with `apt-get \
         install postgresql` or `brew install postgresql@16`"
    )]
    TooOld {
        /// The newest major version that was found.
        newest: u32,
    },
    /// The folder's data needs binaries that are not there.
    #[error(
        "{} holds data of PostgreSQL {wanted}, but the newest installed is {newest}: install \
         PostgreSQL {wanted}, or name another folder", dir.display()
    )]
    OtherVersion {
        /// The folder.
        dir: PathBuf,
        /// The major version that wrote its data.
        wanted: u32,
        /// The newest major version that was found.
        newest: u32,
    },
    /// Another process holds the folder's lock.
    #[error("{} is in use by {holder}: stop that one, or name another folder", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process, as it wrote its id down.
        holder: String,
    },
    /// A folder with somebody's files in it, or one that all users share.
    #[error(
        "{} is shared or holds files that are not a private PostgreSQL's: name an empty or a new \
         folder", dir.display()
    )]
    NotOurs {
        /// The folder.
        dir: PathBuf,
    },
    /// The unprivileged user has no way to the folder.
    #[error(
        "user {user} may not enter {}, and PostgreSQL runs as that user because it refuses to run as \
         root: name a folder that others can reach, such as /var/lib/rater", blocked.display()
    )]
    Unreachable {
        /// The first folder on the way that refuses.
        blocked: PathBuf,
        /// Who was to run PostgreSQL.
        user: String,
    },
    /// Started as root, on a machine with nobody else to be.
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`: add \
         one, for instance with `useradd --system postgres`"
    )]
    NoAccount,
    /// A program of PostgreSQL's failed; its own words follow.
    #[error("{step} failed; {} says:\n{output}", teller.display())]
    Failed {
        /// What was tried.
        step: &'static str,
        /// The program or the log that the output comes from.
        teller: PathBuf,
        /// The last lines of it.
        output: String,
    },
    /// The operating system said no.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |cause| Error::Io { action, path, cause }
    }
}

/// The last lines of an output, which is where programs say why.
pub(super) fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Takes it as done when what was to be removed or renamed is not there.
pub(super) fn unless_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
