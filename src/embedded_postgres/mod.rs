//! `--embedded-postgres DIR`: a private PostgreSQL in a folder, for a laptop, a demo and the
//! tests. It is in nobody's way (a free loopback port, a socket in its folder, a password
//! that only the folder's owner can read), keeps what it was told (durable unless asked
//! otherwise), and goes away with the process that started it.
//!
//! It refuses a folder that another process uses or that holds anything else, and never
//! touches another PostgreSQL on the machine. It imports nothing of ours.

mod account;
mod binaries;
mod error;
mod folder;
mod server;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use binaries::Binaries;
pub use error::Error;
use folder::Folder;
use server::Server;

/// The oldest major version that is served.
pub const MINIMUM_MAJOR: u32 = 14;

/// For what passes by itself: another program takes the free port before PostgreSQL does, or
/// the last sessions of a server that was killed are still on their way out.
const ATTEMPTS: u32 = 6;

/// What kind of server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder, created when missing; never shared with anything else.
    pub dir: PathBuf,
    /// Whether what is committed survives a crash of the machine. Tests do without.
    pub durable: bool,
    /// Server settings, which win over ours: name and value.
    pub settings: Vec<(String, String)>,
}

/// A running private PostgreSQL, stopped when it is dropped. Stopping blocks for as long as
/// its checkpoint takes.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    folder: Folder,
    binaries: Binaries,
    server: Server,
    port: u16,
    password: Secret,
}

/// Kept out of debug output.
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl EmbeddedPostgres {
    /// Starts one and waits until it takes connections, after crash recovery where that is
    /// due. Blocks: call it from a thread that may.
    pub fn start(options: Options) -> Result<EmbeddedPostgres, Error> {
        let folder = Folder::claim(&options.dir)?;
        let binaries = Binaries::find(&folder.root, folder.data_version())?;
        if folder.data_version().is_some() {
            server::stop_leftover(&binaries, &folder)?;
        } else {
            initialise(&folder, &binaries, options.durable)?;
        }
        let password = Secret(folder.password()?);
        let mut attempt = 1;
        loop {
            let port = free_port().map_err(Error::io("find a free port for", &folder.root))?;
            let settings = settings(&options, &folder, port)?;
            match Server::start(&binaries, &folder, &settings) {
                Ok(server) => return Ok(EmbeddedPostgres { folder, binaries, server, port, password }),
                Err(error) if attempt < ATTEMPTS && passes(&error) => {
                    thread::sleep(attempt * Duration::from_millis(200));
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The database `rater`, over TCP. It holds the password: not for logs.
    pub fn url(&self) -> String {
        format!("postgres://rater:{}@127.0.0.1:{}/rater?sslmode=disable", self.password.0, self.port)
    }

    /// Where its programs are, `psql` among them.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.dir
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process.
    pub fn pid(&self) -> u32 {
        self.server.pid
    }

    /// Where it logs.
    pub fn log(&self) -> PathBuf {
        self.folder.log()
    }

    /// A fast shutdown: open transactions roll back, everything committed is on disk. The
    /// folder is free when it returns.
    pub fn stop(self) {}
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.server.stop(&self.binaries, &self.folder);
    }
}

/// Makes the data directory with our database in it, beside its final place: one that was
/// cut off is never taken for a whole one.
fn initialise(folder: &Folder, binaries: &Binaries, durable: bool) -> Result<(), Error> {
    let unfinished = folder.root.join("data.new");
    let removed = fs::remove_dir_all(&unfinished);
    error::unless_missing(removed).map_err(Error::io("remove", &unfinished))?;
    folder.make_password()?;
    let (initdb, postgres) = (binaries.program("initdb"), binaries.program("postgres"));
    let mut init = folder.account.bound_command(&initdb);
    // Keys sort by their bytes, which is fast and the same on every machine.
    init.args(["--encoding=UTF8", "--locale=C", "--username=rater", "--auth=scram-sha-256"]);
    init.arg("--pwfile").arg(folder.password_file()).arg("--pgdata").arg(&unfinished);
    let mut single = folder.account.bound_command(&postgres);
    single.args(["--single", "-c", "exit_on_error=on", "-D"]).arg(&unfinished).arg("template1");
    if !durable {
        init.arg("--no-sync");
        single.arg("-F");
    }
    run(init, &initdb, "")?;
    run(single, &postgres, "CREATE DATABASE rater\n")?;
    fs::rename(&unfinished, folder.data()).map_err(Error::io("rename", &unfinished))
}

/// Runs a program of PostgreSQL's to its end.
fn run(mut command: Command, program: &Path, input: &str) -> Result<(), Error> {
    let io = |error| Error::io("run", program)(error);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ended without reading says why in its output.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let output = error::tail(&String::from_utf8_lossy(&said));
    Err(Error::Failed { step: "making the database", teller: program.into(), output })
}

/// On the command line, so that they hold whatever the folder's configuration says.
fn settings(options: &Options, folder: &Folder, port: u16) -> Result<Vec<(String, String)>, Error> {
    let socket = match folder.make_socket_dir()? {
        // A list, in which quotes keep a comma or a space together.
        Ok(dir) => format!("\"{}\"", dir.replace('"', "\"\"")),
        Err(reason) => {
            tracing::info!(reason, "the private PostgreSQL has no Unix socket, only TCP");
            String::new()
        }
    };
    let port = port.to_string();
    let mut all = vec![
        ("listen_addresses", "127.0.0.1"),
        ("port", &port),
        ("unix_socket_directories", &socket),
        ("unix_socket_permissions", "0700"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("logging_collector", "off"),
    ];
    if !options.durable {
        all.extend([("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off")]);
    }
    let ours = all.into_iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Ok(ours.chain(options.settings.iter().cloned()).collect())
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn passes(error: &Error) -> bool {
    let Error::Failed { output, .. } = error else { return false };
    output.contains("could not bind") || output.contains("is still in use")
}
