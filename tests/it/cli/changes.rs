//! `rater usage changes`: every change once, also when the service or the reader dies in between.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::harness::{Output, Service, event, run, run_in, temp_dir};
use crate::rig::{Rig, backfill, dearer, eventually};

/// Three rows inserted, one of them made dearer, one deleted: five changes.
async fn lived() -> Rig {
    let rig = Rig::with_events([event("a").auth("a"), event("b").auth("b"), event("c").auth("c")]).await;
    rig.rated(backfill(10, 11)).await;
    rig.sql("DELETE FROM billing_event WHERE auth_id = 'b'").await;
    rig.insert([event("d").auth("c")]).await;
    rig.rated(backfill(10, 11)).await;
    rig
}

/// The ids of all changes, in the feed's order.
async fn told(rig: &Rig) -> Vec<String> {
    let sql =
        "SELECT c.batch_id || '-' || c.ordinal FROM rated_usage_change c JOIN change_batch b USING (batch_id)
        ORDER BY b.position, c.ordinal";
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(rig.pool()).await.unwrap()
}

fn changes(rig: &Rig, more: &[&str]) -> Output {
    let output = run(&rig.service.url(), &[&["usage", "changes"], more].concat());
    assert_eq!(output.code(), Some(0), "{output:?}");
    output
}

fn ids(json: &str) -> Vec<String> {
    let id =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["change_id"].as_str().unwrap().to_string();
    json.lines().map(id).collect()
}

/// What is said at the end.
fn cursor(output: &Output) -> String {
    let said = output.stderr.trim_end().split_once("to go on: --cursor ");
    said.unwrap_or_else(|| panic!("{output:?}")).1.to_string()
}

/// A follower, and what it has printed so far.
struct Follower {
    child: Child,
    lines: Arc<Mutex<String>>,
}

impl Follower {
    fn start(rig: &Rig, more: &[&str]) -> Follower {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rater"))
            .args(["usage", "changes", "--follow", "-o", "json", "--server", &rig.service.url()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(String::new()));
        let (stdout, kept) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                *kept.lock().unwrap() += &(line + "\n");
            }
        });
        Follower { child, lines }
    }

    fn ids(&self) -> Vec<String> {
        ids(&self.lines.lock().unwrap())
    }

    async fn until(&self, changes: &[String]) {
        eventually("the changes are printed", async || self.ids().len() >= changes.len()).await;
        assert_eq!(self.ids(), changes);
    }

    fn end(self, with: Signal) -> Output {
        kill(Pid::from_raw(self.child.id().cast_signed()), with).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        Output { status: output.status, stdout: String::new(), stderr }
    }
}

#[tokio::test]
async fn every_change_is_a_line_in_every_format_and_the_end_says_where_to_go_on() {
    let rig = lived().await;
    let all = changes(&rig, &["-o", "json"]);
    assert_eq!(ids(&all.stdout), told(&rig).await);
    assert_eq!(all.stderr.lines().count(), 1);
    let csv = changes(&rig, &["-o", "csv"]).stdout;
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| {
        let at = lines[0].iter().position(|header| *header == name).expect(name);
        lines[1..].iter().map(|line| line[at]).collect::<Vec<_>>()
    };
    assert_eq!(column("operation"), ["insert", "insert", "insert", "delete", "update"]);
    assert_eq!(column("auth_id"), ["a", "b", "c", "b", "c"]);
    assert_eq!(column("previous_cost"), ["", "", "", "0.00045", "0.00045"]);
    assert_eq!(column("cost"), ["0.00045", "0.00045", "0.00045", "", "0.0009"]);
    assert_eq!(column("cost_change"), ["0.00045", "0.00045", "0.00045", "-0.00045", "0.00045"]);
    assert_eq!((column("trigger"), column("price_class")), (vec!["backfill"; 5], vec!["standard"; 5]));
    let table = changes(&rig, &[]).stdout;
    assert_eq!((table.lines().count(), table.matches("change_id").count()), (6, 1), "{table}");

    // From there on there is nothing, and then what is new.
    let from = cursor(&all);
    let none = changes(&rig, &["--cursor", &from, "-o", "json"]);
    assert_eq!((none.stdout.as_str(), cursor(&none)), ("", from.clone()));
    rig.insert([event("e").auth("a")]).await;
    rig.rated(backfill(10, 11)).await;
    let more = changes(&rig, &["--cursor", &from, "-o", "json"]).stdout;
    assert_eq!(ids(&more), told(&rig).await[5..]);
    let narrow = changes(&rig, &["--auth-id", "b", "-o", "json"]).stdout;
    assert_eq!(ids(&narrow).len(), 2);
}

#[tokio::test]
async fn a_cursor_that_is_not_good_here_is_refused_in_one_line() {
    let rig = lived().await;
    let from = cursor(&changes(&rig, &["--auth-id", "a"]));
    for (arguments, code, reason) in [
        (&["--cursor", "nonsense"][..], "FAILED_PRECONDITION", "never issued"),
        (&["--follow", "--cursor", "nonsense"], "FAILED_PRECONDITION", "new first copy"),
        (&["--cursor", &from], "INVALID_ARGUMENT", "another filter"),
        (&["--follow", "--cursor", &from], "INVALID_ARGUMENT", "another filter"),
    ] {
        let refused = run(&rig.service.url(), &[&["usage", "changes"], arguments].concat());
        assert_eq!((refused.code(), refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(refused.stderr.starts_with(&format!("rater: {code}: ")), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{reason}: {refused:?}");
    }
}

#[tokio::test]
async fn a_copy_and_the_changes_after_it_are_the_table() {
    let rig = lived().await;
    let dir = temp_dir();
    let (rows, noted) = (dir.path().join("rows.json"), dir.path().join("cursor"));
    let noted_path = noted.to_str().unwrap();
    let arguments = ["usage", "list", "--out", rows.to_str().unwrap(), "--cursor-out", noted_path];
    let copied = run(&rig.service.url(), &arguments);
    assert_eq!(copied.code(), Some(0), "{copied:?}");
    rig.reload(&dearer()).await;
    rig.insert([event("e").auth("b").at("2026-06-01T11:15:00Z")]).await;
    rig.rated(backfill(10, 12)).await;
    let key = |row: &Value| (row["window_start"].to_string(), row["auth_id"].to_string());
    let parse =
        |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let text = fs::read_to_string(rows).unwrap();
    let mut copy: std::collections::BTreeMap<_, _> =
        parse(&text).into_iter().map(|row| (key(&row), row)).collect();
    let after = parse(&changes(&rig, &["-o", "json", "--cursor-file", noted_path]).stdout);
    assert_eq!(after.len(), 3, "those from before the copy are in it");
    for change in after {
        match (&change["before"], &change["after"]) {
            (before, Value::Null) => copy.remove(&key(before)),
            (_, after) => copy.insert(key(after), after.clone()),
        };
    }
    let table = parse(&run(&rig.service.url(), &["usage", "list", "-o", "json"]).stdout);
    assert_eq!(copy.into_values().collect::<Vec<_>>(), table);
    assert_eq!(table.len(), 3);
}

#[tokio::test]
async fn a_follower_prints_each_change_once_over_a_restart_of_the_service() {
    let rig = lived().await;
    let follower = Follower::start(&rig, &[]);
    follower.until(&told(&rig).await).await;
    rig.service.signal(Signal::SIGKILL);
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap(), "--lease-ttl", "2s"];
    let again = Service::start_at(rig.service.address(), &rig.db.url, &arguments).await;
    rig.insert([event("e").auth("e"), event("f").auth("a")]).await;
    eventually("the client is connected again", async || rig.rate(backfill(10, 11)).await.is_ok()).await;
    let all = told(&rig).await;
    assert_eq!(all.len(), 7);
    follower.until(&all).await;
    let ended = follower.end(Signal::SIGTERM);
    assert_eq!((ended.code(), ended.stderr.lines().count()), (Some(0), 2), "{ended:?}");
    assert!(ended.stderr.contains("asking again for the changes after the last one"), "{ended:?}");
    let from = ended.stderr.trim_end().rsplit(' ').next().unwrap().to_string();
    assert_eq!(changes(&rig, &["--cursor", &from, "-o", "json"]).stdout, "");
    drop(again);
}

#[tokio::test]
async fn a_follower_that_was_killed_goes_on_from_its_file() {
    let rig = lived().await;
    let dir = temp_dir();
    let file = dir.path().join("cursor");
    let option = ["--cursor-file", file.to_str().unwrap()];
    let noted = async |follower: &Follower, changes: &[String]| {
        follower.until(changes).await;
        let from = async || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            !text.is_empty() && changes_after(&rig, text.trim()).is_empty()
        };
        eventually("the cursor is noted", from).await;
    };
    let first = told(&rig).await;
    let follower = Follower::start(&rig, &option);
    noted(&follower, &first).await;
    assert_eq!(follower.end(Signal::SIGKILL).code(), None);

    rig.insert([event("e").auth("e"), event("f").auth("a")]).await;
    rig.rated(backfill(10, 11)).await;
    let follower = Follower::start(&rig, &option);
    noted(&follower, &told(&rig).await[first.len()..]).await;
    assert_eq!(follower.end(Signal::SIGINT).code(), Some(0));
    assert!(dir.path().read_dir().unwrap().count() <= 2, "the file, and perhaps what a kill left");
}

fn changes_after(rig: &Rig, cursor: &str) -> Vec<String> {
    ids(&changes(rig, &["--cursor", cursor, "-o", "json"]).stdout)
}

#[tokio::test]
async fn a_file_of_changes_holds_all_of_them_and_its_cursor_is_noted_once_it_is_there() {
    let rig = lived().await;
    let dir = temp_dir();
    let (rows, noted) = (dir.path().join("changes.parquet"), dir.path().join("cursor"));
    let (rows_path, noted_path) = (rows.to_str().unwrap(), noted.to_str().unwrap());
    let output = changes(&rig, &["--out", rows_path, "--cursor-file", noted_path]);
    assert_eq!((output.stdout.as_str(), output.stderr.lines().count()), ("", 1), "{output:?}");
    assert!(
        output.stderr.starts_with(&format!("rater: wrote 5 rows to {rows_path}; to go on: ")),
        "{output:?}"
    );
    assert_eq!(column(&rows, "change_id"), told(&rig).await);
    let printed = changes(&rig, &["-o", "csv"]).stdout;
    assert_eq!(column(&rows, "operation"), ["insert", "insert", "insert", "delete", "update"]);
    assert_eq!(column(&rows, "before_cost")[3..], ["0.000450000000", "0.000450000000"], "{printed}");
    assert_eq!(column(&rows, "after_cost")[3..], ["null", "0.000900000000"]);
    assert_eq!(column(&rows, "cost_change")[3..], ["-0.000450000000", "0.000450000000"]);
    assert_eq!(changes_after(&rig, fs::read_to_string(noted).unwrap().trim()), Vec::<String>::new());
}

fn column(path: &Path, name: &str) -> Vec<String> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let (_, field) = row.get_column_iter().find(|(column, _)| *column == name).unwrap();
        match field {
            Field::Str(text) => text.clone(),
            other => other.to_string(),
        }
    });
    rows.collect()
}

#[tokio::test]
async fn every_option_of_changes_may_come_from_the_environment() {
    let rig = lived().await;
    let dir = temp_dir();
    let file = dir.path().join("cursor");
    let url = rig.service.url();
    let from = cursor(&changes(&rig, &["--auth-id", "c"]));
    rig.insert([event("e").auth("c"), event("f").auth("a")]).await;
    rig.rated(backfill(10, 11)).await;
    let environment = [
        ("RATER_SERVER", url.as_str()),
        ("RATER_OUTPUT", "json"),
        ("RATER_AUTH_ID", "c"),
        ("RATER_CURSOR", &from),
        ("RATER_CURSOR_FILE", file.to_str().unwrap()),
        ("RATER_FOLLOW", "false"),
        ("RATER_RETRY_FOR", "1s"),
    ];
    let output = run_in(&environment, &["usage", "changes"], "");
    assert_eq!((output.code(), ids(&output.stdout).len()), (Some(0), 1), "{output:?}");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), cursor(&output));
    // The file goes first.
    let again = run_in(&environment, &["usage", "changes"], "");
    assert_eq!((again.code(), again.stdout.as_str()), (Some(0), ""), "{again:?}");
    let out = [("RATER_OUT", "x.csv"), ("RATER_FOLLOW", "true"), ("RATER_SERVER", url.as_str())];
    assert!(run_in(&out, &["usage", "changes"], "").stderr.contains("--follow"));
}
