//! Servers: the one that all tests share, and own ones for tests that kill or fill theirs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rater::embedded_postgres::{EmbeddedPostgres, Options};
use tempfile::TempDir;

const PREFIX: &str = "rater-it-";

/// The shared server lives until the test process ends, and its folder a moment longer.
struct Shared {
    postgres: EmbeddedPostgres,
    _janitor: Child,
}

/// The server that all tests share; the first one to ask starts it. Blocks.
pub(super) fn shared() -> &'static EmbeddedPostgres {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let start = || {
        remove_leftovers();
        let dir = temp_dir().keep();
        let postgres = start(&dir, &[("max_connections", "500"), ("autovacuum", "off")]);
        let janitor = janitor(&dir, postgres.pid());
        Shared { postgres, _janitor: janitor }
    };
    &SHARED.get_or_init(start).postgres
}

/// A server of a test's own, gone with its folder when it is dropped.
pub struct OwnServer {
    // Before the folder: fields drop in order.
    pub postgres: EmbeddedPostgres,
    _dir: TempDir,
}

/// A server of the test's own, not durable, with these settings.
pub async fn own_server(settings: &[(&str, &str)]) -> OwnServer {
    let dir = temp_dir();
    OwnServer { postgres: own_server_in(dir.path(), settings).await, _dir: dir }
}

/// The same in a folder of the test's choice, such as one on a [`super::Tmpfs`].
pub async fn own_server_in(dir: &Path, settings: &[(&str, &str)]) -> EmbeddedPostgres {
    let dir = dir.to_path_buf();
    let settings: Vec<(String, String)> =
        settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let work = move || EmbeddedPostgres::start(Options { dir, durable: false, settings });
    tokio::task::spawn_blocking(work).await.unwrap().unwrap()
}

/// A new folder that the next run of the tests removes when this one can't.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap()
}

/// Runs SQL with `psql`, each statement by itself, and gives what it prints.
pub fn psql(postgres: &EmbeddedPostgres, sql: &str) -> Result<String, String> {
    let output = Command::new(postgres.bin_dir().join("psql"))
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .arg(postgres.url())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn start(dir: &Path, settings: &[(&str, &str)]) -> EmbeddedPostgres {
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    EmbeddedPostgres::start(Options { dir: dir.to_path_buf(), durable: false, settings }).unwrap()
}

/// Removes the folder once this process has ended, however it did: its end closes the pipe
/// that the janitor reads. The server itself goes down with us.
fn janitor(dir: &Path, server: u32) -> Child {
    use std::os::unix::process::CommandExt;
    let script = r#"cat; for i in $(seq 100); do kill -0 "$1" || break; sleep 0.1; done; rm -rf "$0""#;
    Command::new("sh")
        .args(["-c", script])
        .arg(dir)
        .arg(server.to_string())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What test processes left behind that were killed together with their janitor.
fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && is_abandoned(&entry.path()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Not just made, and its lock is free.
fn is_abandoned(dir: &PathBuf) -> bool {
    let made = fs::metadata(dir).and_then(|meta| meta.modified());
    let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
    let Ok(age) = age else { return false };
    match File::open(dir.join("rater-postgres.lock")) {
        Ok(lock) => age > Duration::from_secs(60) && lock.try_lock().is_ok(),
        Err(_) => age > Duration::from_secs(3600),
    }
}
