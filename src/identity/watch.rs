//! Files that are followed by what is in them: an editor that renames, a Secret whose link is
//! swapped and a plain write all look alike. A new content counts once it was read twice in a row,
//! so that no half-written file, and no pair of which only one half is new, is taken for one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

const POLL: Duration = Duration::from_secs(1);
/// How long a content must stand before it counts.
const SETTLES: Duration = Duration::from_millis(300);
/// The most that is read of a file; none of ours is as large.
const MAX_BYTES: u64 = 1 << 20;

/// What a look at a file found: its bytes, or why there are none.
pub type Content = Result<Vec<u8>, String>;

/// Reads a file, at most 1 MiB of it.
pub fn read(path: &Path) -> Content {
    let content = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = content().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("{}: larger than 1 MiB", path.display()));
    }
    Ok(bytes)
}

/// What is followed.
pub trait Followed: Send + Sync + 'static {
    /// The files, which may depend on what one of them says.
    fn files(&self) -> Vec<PathBuf>;

    /// The contents that were acted on before it is followed, to be given once.
    fn known(&self) -> &Mutex<Vec<Content>>;

    /// Acts on contents that are not the last ones, in the files' order.
    fn take(&self, contents: Vec<Content>);
}

/// Follows for ever.
pub async fn follow(followed: Arc<impl Followed>) {
    let mut known = std::mem::take(&mut *followed.known().lock().unwrap_or_else(PoisonError::into_inner));
    loop {
        sleep(POLL).await;
        let files = followed.files();
        let found = look(files.clone()).await;
        if found == known {
            continue;
        }
        sleep(SETTLES).await;
        if look(files).await == found {
            known.clone_from(&found);
            let acting = followed.clone();
            // The check of a key takes a moment; a defect in it must not end the watch.
            if spawn_blocking(move || acting.take(found)).await.is_err() {
                tracing::error!("a change of credentials could not be checked: the check panicked");
            }
        }
    }
}

/// Every content as it is now.
async fn look(files: Vec<PathBuf>) -> Vec<Content> {
    let look = move || files.iter().map(|path| read(path)).collect();
    spawn_blocking(look).await.unwrap_or_default()
}
