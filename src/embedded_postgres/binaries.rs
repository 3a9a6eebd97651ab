//! Where PostgreSQL's programs are: PATH, then Debian's folders, then Homebrew's, the newest
//! version first in each.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, MINIMUM_MAJOR};

/// A folder with `postgres`, `initdb` and `pg_ctl` of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub dir: PathBuf,
}

impl Binaries {
    /// The first new enough, or the one that wrote the data in `dir`.
    pub fn find(dir: &Path, wanted: Option<u32>) -> Result<Binaries, Error> {
        choose(candidates(), dir, wanted)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Folders that may hold the programs, in the order in which they are preferred.
fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A link in PATH leads to the folder with the rest of the programs.
    let in_path = env::split_paths(&path)
        .filter_map(|dir| Some(fs::canonicalize(dir.join("postgres")).ok()?.parent()?.to_path_buf()));
    let homebrew = ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"];
    in_path
        .chain(versions(Path::new("/usr/lib/postgresql"), ""))
        .chain(homebrew.iter().flat_map(|folder| versions(Path::new(folder), "postgresql@")))
        .collect()
}

/// `folder/PREFIX<number>/bin`, the highest number first.
fn versions(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

fn choose(candidates: Vec<PathBuf>, dir: &Path, wanted: Option<u32>) -> Result<Binaries, Error> {
    let mut newest = None;
    for folder in candidates {
        let Some(major) = major(&folder) else { continue };
        if major >= MINIMUM_MAJOR && wanted.is_none_or(|wanted| wanted == major) {
            return Ok(Binaries { dir: folder });
        }
        newest = newest.max(Some(major));
    }
    Err(match (newest, wanted) {
        (None, _) => Error::NotInstalled,
        (Some(newest), Some(wanted)) => Error::OtherVersion { dir: dir.into(), wanted, newest },
        (Some(newest), None) => Error::TooOld { newest },
    })
}

/// The major version in a folder that has all we need, from `postgres (PostgreSQL) 15.18`.
fn major(folder: &Path) -> Option<u32> {
    if !["initdb", "pg_ctl"].iter().all(|program| folder.join(program).is_file()) {
        return None;
    }
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with programs that say they are of `version`.
    fn fake(root: &Path, name: &str, version: &str) -> PathBuf {
        let bin = root.join(name).join("bin");
        fs::create_dir_all(&bin).unwrap();
        for program in ["postgres", "initdb", "pg_ctl"] {
            let file = bin.join(program);
            fs::write(&file, format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        bin
    }

    #[test]
    fn no_binaries_say_how_to_install_them() {
        let error = choose(vec!["/nowhere".into()], Path::new("/d"), None).unwrap_err().to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn binaries_that_are_too_old_are_named_and_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let old = fake(root.path(), "13", "13.21");
        let error = choose(vec![old.clone()], Path::new("/d"), None).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 13 is too old"), "{error}");
        let new = fake(root.path(), "18", "18beta1 (Debian 18~beta1)");
        let chosen = choose(vec![old, new.clone()], Path::new("/d"), None).unwrap();
        assert_eq!(chosen.dir, new);
    }

    #[test]
    fn data_gets_the_version_that_wrote_it() {
        let root = tempfile::tempdir().unwrap();
        let older = fake(root.path(), "16", "16.4");
        fake(root.path(), "9", "9.6.24");
        let newer = fake(root.path(), "17", "17.2");
        let all = versions(root.path(), "");
        let chosen = |wanted| choose(all.clone(), Path::new("/d"), wanted).map(|chosen| chosen.dir);
        assert_eq!(chosen(None).unwrap(), newer);
        assert_eq!(chosen(Some(16)).unwrap(), older);
        let error = chosen(Some(15)).unwrap_err().to_string();
        assert!(error.contains("/d holds data of PostgreSQL 15, but the newest installed is 17"), "{error}");
    }
}
