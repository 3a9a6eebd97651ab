//! The server's process: started, watched until it is ready, stopped. It must not outlive
//! us, however we end.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Error;
use super::binaries::Binaries;
use super::error::{tail, unless_missing};
use super::folder::Folder;

/// Crash recovery after a long night's writes takes its time.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// Stopping fast writes a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A running `postgres`.
#[derive(Debug)]
pub(super) struct Server {
    pub pid: u32,
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl Server {
    /// Starts `postgres` on a port and waits until it takes connections.
    pub fn start(
        binaries: &Binaries,
        folder: &Folder,
        settings: &[(String, String)],
    ) -> Result<Server, Error> {
        let log = folder.make_log()?;
        let mut command = folder.account.bound_command(&binaries.program("postgres"));
        command.arg("-D").arg(folder.data());
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let again = log.try_clone().map_err(Error::io("open", &folder.log()))?;
        command.stdout(again).stderr(log);
        let server = Server::spawn(command, folder)?;
        match server.wait_until_ready(folder) {
            Ok(()) => Ok(server),
            Err(error) => {
                server.stop(binaries, folder);
                Err(error)
            }
        }
    }

    /// The kernel's signal comes when the *thread* that forked ends, not the process: the
    /// thread that starts the server waits for its end.
    fn spawn(mut command: Command, folder: &Folder) -> Result<Server, Error> {
        let (send, started) = mpsc::sync_channel(1);
        let stopping = Arc::new(AtomicBool::new(false));
        let (asked, log) = (stopping.clone(), folder.log());
        let work = move || match command.spawn() {
            Err(error) => drop(send.send(Err(error))),
            Ok(mut child) => {
                drop(send.send(Ok(child.id())));
                let status = child.wait();
                if !asked.load(Ordering::SeqCst) {
                    report_end(status, &log);
                }
            }
        };
        let thread = thread::Builder::new()
            .name("postgres".into())
            .spawn(work)
            .map_err(Error::io("start a thread for", &folder.root))?;
        let started = started.recv().unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")));
        let pid = started.map_err(Error::io("start PostgreSQL in", &folder.root))?;
        Ok(Server { pid, thread, stopping })
    }

    /// `postmaster.pid` is what `pg_ctl` looks at: its first line is the process, its eighth
    /// the state.
    fn wait_until_ready(&self, folder: &Folder) -> Result<(), Error> {
        let pid_file = folder.data().join("postmaster.pid");
        let deadline = Instant::now() + READY_WITHIN;
        while !self.has_ended() && Instant::now() < deadline {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let ours = text.lines().next() == Some(&self.pid.to_string());
            if ours && text.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        let output = fs::read(folder.log()).unwrap_or_default();
        let output = tail(&String::from_utf8_lossy(&output));
        Err(Error::Failed { step: "starting PostgreSQL", teller: folder.log(), output })
    }

    /// Whether the process is gone, asked for or not.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// A fast shutdown; a harder one, from which the next start recovers, when that hangs.
    pub fn stop(&self, binaries: &Binaries, folder: &Folder) {
        self.stopping.store(true, Ordering::SeqCst);
        for (signal, patience) in
            [("INT", STOPPED_WITHIN), ("QUIT", STOPPED_WITHIN / 6), ("KILL", STOPPED_WITHIN / 6)]
        {
            if self.has_ended() {
                return;
            }
            send(signal, self.pid, binaries, folder);
            let deadline = Instant::now() + patience;
            while !self.has_ended() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        }
    }
}

/// Stops a server that an earlier process left behind in the folder, which can only be one
/// that was killed: we hold the folder's lock.
pub(super) fn stop_leftover(binaries: &Binaries, folder: &Folder) -> Result<(), Error> {
    let pid_file = folder.data().join("postmaster.pid");
    let Some(pid) = leftover(&pid_file) else { return Ok(()) };
    let data = folder.data();
    let data = data.as_os_str().as_encoded_bytes();
    let deadline = Instant::now() + STOPPED_WITHIN;
    while let Some(line) = command_line(pid) {
        // Some other process may have the number by now, or nobody has collected the dead one:
        // then PostgreSQL would wait for it for ever. (A number that is free it looks after
        // itself, with more care than we could.)
        if !line.windows(data.len()).any(|part| part == data) {
            return unless_missing(fs::remove_file(&pid_file)).map_err(Error::io("remove", &pid_file));
        }
        let signal = if Instant::now() < deadline { "INT" } else { "KILL" };
        send(signal, pid, binaries, folder);
        thread::sleep(POLL * 10);
    }
    Ok(())
}

fn leftover(pid_file: &Path) -> Option<u32> {
    fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok()
}

/// The command line of a process, where there is one of that number. A server's names its
/// data directory.
fn command_line(pid: u32) -> Option<Vec<u8>> {
    if Path::new("/proc/self/cmdline").exists() {
        return fs::read(format!("/proc/{pid}/cmdline")).ok();
    }
    let ps = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    ps.status.success().then_some(ps.stdout)
}

/// Sends a signal as the server's user, so that a wrong number can't hit anyone else.
fn send(signal: &str, pid: u32, binaries: &Binaries, folder: &Folder) {
    let mut kill = folder.account.command(&binaries.program("pg_ctl"));
    kill.args(["kill", signal, &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    // It fails where the process has just ended, which is what was wanted.
    drop(kill.status());
}

fn report_end(status: std::io::Result<ExitStatus>, log: &Path) {
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    tracing::error!(status, log = %log.display(), "the private PostgreSQL ended by itself; restart");
}
