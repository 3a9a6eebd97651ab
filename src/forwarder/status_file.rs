//! `status.json` in the spool's folder: what the forwarder counted, for `rater events status`
//! and for the next one. Written whole or not at all, and never worth a failure: what is not
//! written down is counted anew.

use std::io::Write;
use std::path::Path;

use super::seen::Saved;

const NAME: &str = "status.json";

/// What was written down last; nothing where that can't be read.
pub fn read(spool: &Path) -> Saved {
    let text = std::fs::read(spool.join(NAME)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes it down.
pub fn write(spool: &Path, saved: &Saved) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".status").tempfile_in(spool)?;
    file.write_all(serde_json::to_string(saved)?.as_bytes())?;
    file.persist(spool.join(NAME)).map(drop).map_err(|error| error.error)
}
