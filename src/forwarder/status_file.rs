//! `status.json` in the spool's folder: what the forwarder counted, for `rater events status`
//! and for the next one. Written whole or not at all, and never worth a failure: what is not
//! written down is counted anew.

use std::path::Path;
use std::{fs, io};

use super::seen::Saved;

const NAME: &str = "status.json";
const NEW: &str = "status.json.new";

/// What was written down last; nothing where that can't be read.
pub fn read(spool: &Path) -> Saved {
    let text = fs::read(spool.join(NAME)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes it down.
pub fn write(spool: &Path, saved: &Saved) -> io::Result<()> {
    // Always the same name: a process that is killed here leaves one file, and not one each time.
    let new = spool.join(NEW);
    let written = serde_json::to_string(saved)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, spool.join(NAME)));
    if written.is_err() {
        // It may hold the last bytes of a full disk.
        drop(fs::remove_file(&new));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again_and_what_is_not_there_is_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()), Saved::default());
        let saved = Saved { max_bytes: 7, last_shipped_at: Some(chrono::Utc::now()), ..Saved::default() };
        write(folder.path(), &saved).expect("written");
        assert_eq!(read(folder.path()), saved);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        fs::write(folder.path().join(NAME), "{\"stored\":-1}").expect("a file");
        assert_eq!(read(folder.path()), Saved::default());
        assert!(write(&folder.path().join("none"), &saved).is_err());
    }
}
