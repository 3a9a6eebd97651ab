//! Who runs the server. PostgreSQL refuses to run as root, so root hands it to an
//! unprivileged user: the folder's owner, else `postgres`, else `nobody`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// The user that PostgreSQL's programs run as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// User and group, where they are not our own.
    pub ids: Option<(u32, u32)>,
    name: String,
}

impl Account {
    /// For a folder that exists. A folder that belongs to somebody stays theirs, so that a
    /// start with `sudo` in between does not lock its owner out.
    pub fn of(dir: &Path) -> Result<Account, Error> {
        if id(&["-u"]) != Some(0) {
            return Ok(Account { ids: None, name: "you".into() });
        }
        let owner = fs::metadata(dir).map_err(Error::io("read", dir))?;
        if owner.uid() != 0 {
            let name = format!("with id {}", owner.uid());
            return Ok(Account { ids: Some((owner.uid(), owner.gid())), name });
        }
        ["postgres", "nobody"].into_iter().find_map(Account::named).ok_or(Error::NoAccount)
    }

    fn named(name: &str) -> Option<Account> {
        let ids = (id(&["-u", name])?, id(&["-g", name])?);
        Some(Account { ids: Some(ids), name: name.into() })
    }

    /// A program run as this user. It starts in `/`, since our own working folder may be
    /// closed to that user; without the `PG…` variables, which would lead it elsewhere; and
    /// in a process group of its own, so that Ctrl-C reaches us and not the database that
    /// we are still writing to.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").process_group(0).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if let Some((uid, gid)) = self.ids {
            // The standard library also drops the supplementary groups when it leaves root.
            command.gid(gid).uid(uid);
        }
        command
    }

    /// The same, and interrupted when the thread that starts it ends, even by a SIGKILL to all
    /// of us: `setpriv` asks the kernel for that. Where there is none, the next start in the
    /// folder stops what was left behind.
    pub fn bound_command(&self, program: &Path) -> Command {
        let setpriv = |program: &Path| {
            let mut command = self.command(Path::new("setpriv"));
            command.args(["--pdeathsig", "INT", "--"]).arg(program);
            command
        };
        let mut probe = setpriv(Path::new("true"));
        match probe.stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => setpriv(program),
            _ => self.command(program),
        }
    }

    /// Fails with the first folder on the way down to `dir` that this user may not enter.
    pub fn check_reach(&self, dir: &Path) -> Result<(), Error> {
        if self.ids.is_none() {
            return Ok(());
        }
        let mut way: Vec<&Path> = dir.ancestors().collect();
        way.reverse();
        for step in way {
            let enters = self.command(Path::new("test")).arg("-x").arg(step).status();
            if !enters.map_err(Error::io("run `test` on", step))?.success() {
                return Err(Error::Unreachable { blocked: PathBuf::from(step), user: self.name.clone() });
            }
        }
        Ok(())
    }
}

/// A number that `id` prints. macOS has a `nobody` of −2, which wraps as the system does.
fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    let number: i64 = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
    Some(number as u32)
}
