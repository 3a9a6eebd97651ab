//! The promises of `--embedded-postgres DIR`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rater::embedded_postgres::{EmbeddedPostgres, Error, Options};
use tempfile::TempDir;

use crate::harness::{self, psql, skipped};

/// Where a test process of ours finds its order to serve until it is killed.
const SERVE_IN: &str = "RATER_IT_SERVE_IN";

fn folder() -> (TempDir, PathBuf) {
    let temp = harness::temp_dir();
    // The unprivileged user passes through.
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = temp.path().join("pg");
    (temp, dir)
}

fn try_start(dir: &Path, settings: &[(&str, &str)]) -> Result<EmbeddedPostgres, Error> {
    let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    EmbeddedPostgres::start(Options { dir: dir.into(), durable: false, settings })
}

fn start(dir: &Path) -> EmbeddedPostgres {
    try_start(dir, &[]).unwrap()
}

fn is_root(dir: &Path) -> bool {
    fs::metadata(dir).unwrap().uid() == 0
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Whether a process is there and not just waiting to be collected.
fn runs(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that serves in a folder, its server, and how to talk to that.
struct Other {
    process: Child,
    server: u32,
    url: String,
    psql: PathBuf,
}

impl Other {
    /// Starts one and comes back once it serves.
    fn serving(dir: &Path) -> Other {
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::serves_where_it_is_told_to", "--nocapture"])
            .env(SERVE_IN, dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let told = dir.with_extension("told");
        wait_until("another process serves", || told.exists());
        let text = fs::read_to_string(told).unwrap();
        let mut words = text.splitn(3, ' ');
        let server = words.next().unwrap().parse().unwrap();
        let url = words.next().unwrap().into();
        Other { process, server, url, psql: words.next().unwrap().into() }
    }

    fn psql(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.psql);
        command.args(["-X", "-q", "-A", "-t"]).args(arguments).arg(&self.url).stderr(Stdio::null());
        command
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The other side of [`Other::serving`]; on its own it has nothing to show.
#[test]
fn serves_where_it_is_told_to() {
    let Some(dir) = std::env::var_os(SERVE_IN).map(PathBuf::from) else { return };
    let options = Options { dir: dir.clone(), durable: true, settings: vec![] };
    let postgres = EmbeddedPostgres::start(options).unwrap();
    psql(&postgres, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").unwrap();
    let psql = postgres.bin_dir().join("psql");
    let how = format!("{} {} {}", postgres.pid(), postgres.url(), psql.display());
    fs::write(dir.with_extension("new"), how).unwrap();
    fs::rename(dir.with_extension("new"), dir.with_extension("told")).unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn it_is_utf8_in_byte_order_at_utc_and_durable_by_default() {
    let (_temp, dir) = folder();
    let options = Options { dir, durable: true, settings: vec![("work_mem".into(), "7MB".into())] };
    let postgres = EmbeddedPostgres::start(options).unwrap();
    let show = |name: &str| psql(&postgres, &format!("SELECT current_setting('{name}')")).unwrap();
    assert_eq!(show("server_encoding"), "UTF8");
    assert_eq!(show("TimeZone"), "UTC");
    assert_eq!([show("fsync"), show("full_page_writes"), show("synchronous_commit")], ["on", "on", "on"]);
    assert_eq!(show("work_mem"), "7MB");
    assert_eq!(psql(&postgres, "SELECT current_database(), 'B' < 'a'").unwrap(), "rater|t");
    assert_eq!(show("listen_addresses"), "127.0.0.1");
}

#[test]
fn no_other_user_gets_in() {
    let (_temp, dir) = folder();
    let postgres = start(&dir);
    let login = |host: &str, password: &str| {
        let port = postgres.port().to_string();
        let output = Command::new(postgres.bin_dir().join("psql"))
            .args(["-X", "-w", "-h", host, "-p", &port, "-U", "rater", "-c", "SELECT 1", "rater"])
            .env("PGPASSWORD", password)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let socket = dir.join("socket");
    for host in ["127.0.0.1", socket.to_str().unwrap()] {
        let (in_without, said) = login(host, "");
        assert!(!in_without && said.contains("no password supplied"), "{said}");
        let (in_guessing, said) = login(host, "rater");
        assert!(!in_guessing && said.contains("password authentication failed"), "{said}");
        assert!(login(host, fs::read_to_string(dir.join("password")).unwrap().trim()).0);
    }
    assert_eq!([mode(&dir), mode(&socket), mode(&dir.join("data"))], [0o700; 3]);
    assert_eq!([mode(&dir.join("password")), mode(&dir.join("server.log"))], [0o600; 2]);
    let secret = fs::read_to_string(dir.join("password")).unwrap();
    assert!(!format!("{postgres:?}").contains(secret.trim()));
}

#[test]
fn what_was_committed_is_there_after_a_stop() {
    let (_temp, dir) = folder();
    let postgres = start(&dir);
    psql(&postgres, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    let pid = postgres.pid();
    postgres.stop();
    assert!(!runs(pid));
    assert_eq!(psql(&start(&dir), "SELECT n FROM t").unwrap(), "42");
}

#[test]
fn a_second_process_is_told_who_uses_the_folder() {
    let (_temp, dir) = folder();
    let postgres = start(&dir);
    let error = try_start(&dir, &[]).unwrap_err().to_string();
    let us = format!("is in use by process {}: stop that one, or name another folder", std::process::id());
    assert!(error.contains(&us) && !error.contains('\n'), "{error}");
    assert_eq!(psql(&postgres, "SELECT 1").unwrap(), "1");
}

#[test]
fn the_server_dies_with_a_process_that_is_killed() {
    let (_temp, dir) = folder();
    let other = Other::serving(&dir);
    let server = other.server;
    other.kill();
    if Command::new("setpriv").args(["--pdeathsig", "INT", "true"]).status().is_ok_and(|s| s.success()) {
        wait_until("the server is gone", || !runs(server));
    } else {
        skipped("the_server_dies_with_a_process_that_is_killed", "no setpriv here");
    }
    assert_eq!(psql(&start(&dir), "SELECT count(*) FROM t").unwrap(), "1000");
}

#[test]
fn it_recovers_when_everything_was_killed_at_once() {
    let (_temp, dir) = folder();
    let other = Other::serving(&dir);
    // In the middle of its work: commits since the checkpoint, and an open transaction.
    let commit = "INSERT INTO t SELECT 1 FROM generate_series(1, 50000)";
    let open = "BEGIN; DELETE FROM t; SELECT pg_sleep(60)";
    let mut client = other.psql(&["-c", commit, "-c", open]).spawn().unwrap();
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until("the client sleeps in its transaction", || {
        other.psql(&["-c", busy]).output().unwrap().stdout == b"1\n"
    });
    kill(Pid::from_raw(other.server as i32), Signal::SIGKILL).unwrap();
    other.kill();
    let postgres = start(&dir);
    assert_eq!(psql(&postgres, "SELECT count(*) FROM t").unwrap(), "51000");
    let log = fs::read_to_string(postgres.log()).unwrap();
    assert!(log.contains("automatic recovery in progress"), "{log}");
    client.wait().unwrap();
}

/// A command run as the owner of the folder, as a server that was left behind is.
fn as_owner(dir: &Path, program: &Path) -> Command {
    let owner = fs::metadata(dir).unwrap();
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if is_root(Path::new("/proc/self")) {
        command.gid(owner.gid()).uid(owner.uid());
    }
    command
}

#[test]
fn a_server_that_was_left_behind_is_stopped_and_started_over() {
    let (_temp, dir) = folder();
    let postgres = start(&dir);
    psql(&postgres, "CREATE TABLE t AS SELECT 42 AS n").unwrap();
    let (program, port) = (postgres.bin_dir().join("postgres"), postgres.port());
    postgres.stop();
    let mut left = as_owner(&dir, &program)
        .args(["-c", "unix_socket_directories=", "-p", &port.to_string(), "-D"])
        .arg(dir.join("data"))
        .spawn()
        .unwrap();
    let pid_file = dir.join("data/postmaster.pid");
    wait_until("it is up", || fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("ready")));
    // Its parent collects it, as init does with an orphan.
    let collected = thread::spawn(move || left.wait().unwrap());
    assert_eq!(psql(&start(&dir), "SELECT n FROM t").unwrap(), "42");
    assert!(collected.join().unwrap().success());
}

#[test]
fn a_pid_file_that_names_a_stranger_does_no_harm() {
    let (_temp, dir) = folder();
    start(&dir).stop();
    let mut stranger = as_owner(&dir, Path::new("sleep")).arg("60").spawn().unwrap();
    let data = dir.join("data");
    let pid_file = format!("{}\n{}\n1\n5432\n\n127.0.0.1\n1 2\nready\n", stranger.id(), data.display());
    fs::write(data.join("postmaster.pid"), pid_file).unwrap();
    assert_eq!(psql(&start(&dir), "SELECT 1").unwrap(), "1");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was hit");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_folder_whose_making_was_cut_off_is_made_again() {
    let (_temp, dir) = folder();
    fs::create_dir_all(dir.join("data.new/base")).unwrap();
    fs::write(dir.join("rater-postgres.lock"), "1\n").unwrap();
    fs::write(dir.join("password"), "old").unwrap();
    assert_eq!(psql(&start(&dir), "SELECT 1").unwrap(), "1");
}

#[test]
fn a_path_too_long_for_a_socket_does_without_one() {
    let (temp, _) = folder();
    let dir = temp.path().join("a long, \"quoted\" name ".repeat(4)).join("x".repeat(120));
    let postgres = start(&dir);
    assert_eq!(psql(&postgres, "SELECT current_setting('unix_socket_directories')").unwrap(), "");
    let quoted = temp.path().join("a, \"b\"");
    assert_eq!(psql(&start(&quoted), "SELECT 1").unwrap(), "1");
    let sockets = fs::read_dir(quoted.join("socket")).unwrap();
    assert_eq!(sockets.count(), 0, "a stopped server leaves no socket");
}

#[test]
fn a_folder_that_the_server_user_cannot_reach_is_named() {
    let (temp, _) = folder();
    if !is_root(temp.path()) {
        return skipped("a_folder_that_the_server_user_cannot_reach_is_named", "only root hands over");
    }
    let closed = temp.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let error = try_start(&closed.join("pg"), &[]).unwrap_err().to_string();
    let expected = format!("may not enter {}, and", fs::canonicalize(&closed).unwrap().display());
    assert!(error.contains(&expected) && !error.contains('\n'), "{error}");
}

#[test]
fn a_folder_with_anything_else_in_it_is_left_alone() {
    let (_temp, dir) = folder();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("thesis.txt"), "").unwrap();
    let before = fs::metadata(&dir).unwrap();
    assert!(matches!(try_start(&dir, &[]), Err(Error::NotOurs { .. })));
    let after = fs::metadata(&dir).unwrap();
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    let error = try_start(&std::env::temp_dir(), &[]).unwrap_err().to_string();
    assert!(error.contains("name an empty or a new folder"), "{error}");
}

#[test]
fn a_start_that_fails_shows_what_the_log_says() {
    let (_temp, dir) = folder();
    let error = try_start(&dir, &[("shared_buffers", "plenty")]).unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\": \"plenty\""), "{error}");
    assert!(error.contains("pg/server.log says"), "{error}");
    assert_eq!(psql(&start(&dir), "SELECT 1").unwrap(), "1");
}

#[tokio::test]
async fn a_small_file_system_fills_up() {
    let disk = match harness::Tmpfs::mount(100) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_small_file_system_fills_up", &why),
    };
    // Without WAL for a new table: the server survives a table that is full, not a full WAL.
    let settings = [("wal_level", "minimal"), ("max_wal_senders", "0"), ("max_wal_size", "32MB")];
    let postgres = harness::own_server_in(disk.path(), &settings).await;
    let sql = "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 200000)";
    let error = psql(&postgres, sql).unwrap_err();
    assert!(error.contains("No space left on device"), "{error}");
}
