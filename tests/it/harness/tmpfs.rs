//! A small file system, to see what happens when it is full.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::server::temp_dir;

/// A tmpfs of a few megabytes, unmounted when it is dropped.
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one, or says why it can't: it takes root, and a container may forbid it. A
    /// PostgreSQL needs about 60 MB to begin with.
    pub fn mount(megabytes: u32) -> Result<Tmpfs, String> {
        let dir = temp_dir();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0700"), "tmpfs"])
            .arg(dir.path())
            .output()
            .map_err(|error| format!("no `mount` here: {error}"))?;
        match mount.status.success() {
            true => Ok(Tmpfs { dir }),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_string()),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a server that is still on its way out does not keep it.
        drop(Command::new("umount").arg("-l").arg(self.dir.path()).status());
    }
}
