//! `--out`: a file that holds exactly the rows, and is there whole or not at all.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Output, Tmpfs, event, run, run_in, skipped, temp_dir};
use crate::rig::{BOOK, Rig, backfill, eventually};

/// The widest cost and rate that a row may have, 28 digits, and the narrowest.
const WIDEST: &str = "9999999999999999.999999999999";
const NARROWEST: &str = "0.000000000001";

/// Rated rows, and some of another writer at the limits of what a row may be.
async fn filled() -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert((0..7).map(|n| event(&n.to_string()).auth(&format!("auth,\"{n}\"\né")))).await;
    rig.rated(backfill(10, 11)).await;
    for (id, rate) in [("wide", WIDEST), ("narrow", NARROWEST), ("free", "0")] {
        rig.sql(&format!(
            "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens, cached_tokens,
                completion_tokens, billable_prompt_tokens, event_count, cost, applied_prompt_rate,
                applied_cached_rate, applied_completion_rate)
             VALUES ('{id}', '{id}', 'r', 'm', '2026-06-01T10:00Z', 1, 0, 9223372036854775807, 1, 3, {rate}, {rate}, 0, 0)"
        ))
        .await;
    }
    rig
}

/// So many rows of another writer, which no compression makes small.
async fn many(rows: u32) -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    rig.sql(&format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, prompt_tokens, cached_tokens,
            completion_tokens, billable_prompt_tokens, cost, applied_prompt_rate, applied_cached_rate,
            applied_completion_rate)
         SELECT md5(n::text), md5('a' || n) || md5('b' || n), md5('c' || n) || md5('d' || n), 'm',
            '2026-06-01T10:00Z', 0, 0, 0, 0, 0, 0, 0, 0
         FROM generate_series(1, {rows}) n"
    ))
    .await;
    rig
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn copied(rig: &Rig, arguments: &[&str], path: &Path) -> Output {
    let output =
        run(&rig.service.url(), &[&["usage"], arguments, &["--out", path.to_str().unwrap()]].concat());
    assert_eq!(
        (output.code(), output.stdout.as_str(), output.stderr.lines().count()),
        (Some(0), "", 1),
        "{output:?}"
    );
    output
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A cell as proto3 JSON has it: a decimal that isn't there is empty, a time is left out.
fn as_json(name: &str, field: &Field) -> Value {
    let decimal = name.ends_with("_rate") || name.ends_with("cost");
    match field {
        Field::Null if decimal => "".into(),
        Field::Null => Value::Null,
        Field::Str(text) => text.as_str().into(),
        Field::Long(count) => count.to_string().into(),
        Field::Decimal(_) => {
            let text = field.to_string();
            assert_eq!(text.split('.').nth(1).unwrap().len(), 12, "{name} {text}");
            text.trim_end_matches('0').trim_end_matches('.').into()
        }
        Field::TimestampMicros(micros) => {
            let time: DateTime<Utc> = DateTime::from_timestamp_micros(*micros).unwrap();
            time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into()
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn parquet(path: &Path) -> Vec<Value> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    let object = |row: parquet::record::Row| {
        let cells = row.get_column_iter().map(|(name, field)| (name.clone(), as_json(name, field)));
        cells.filter(|(_, value)| !value.is_null()).collect()
    };
    rows.map(|row| Value::Object(object(row.unwrap()))).collect()
}

#[tokio::test]
async fn every_kind_of_file_holds_exactly_the_rows() {
    let rig = filled().await;
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    let printed = |format: &str| run(&rig.service.url(), &["usage", "list", "-o", format]).stdout;
    for name in ["rows.json", "rows.jsonl", "rows.ndjson"] {
        copied(&rig, &["list", "--page-size", "3"], &at(name));
        assert_eq!(fs::read_to_string(at(name)).unwrap(), printed("json"), "{name}");
    }
    copied(&rig, &["list", "--page-size", "3"], &at("rows.csv"));
    assert_eq!(fs::read_to_string(at("rows.csv")).unwrap(), printed("csv"));
    copied(&rig, &["list", "--page-size", "3"], &at("rows.txt"));
    let table = fs::read_to_string(at("rows.txt")).unwrap();
    assert_eq!((table.lines().count(), table.matches("auth_id").count()), (11, 1), "{table}");

    let said = copied(&rig, &["list", "--page-size", "3"], &at("rows.parquet")).stderr;
    assert!(said.starts_with(&format!("rater: wrote 10 rows to {}", at("rows.parquet").display())), "{said}");
    let (rows, expected) = (parquet(&at("rows.parquet")), json(&printed("json")));
    assert_eq!(rows, expected);
    let costs: Vec<&str> = rows.iter().map(|row| row["cost"].as_str().unwrap()).collect();
    let stored = rig.rows().await;
    assert_eq!(costs, stored.iter().map(|row| row.cost.as_str()).collect::<Vec<_>>());
    assert!([WIDEST, NARROWEST, "0"].iter().all(|cost| costs.contains(cost)), "{costs:?}");
    assert_eq!(names(dir.path()).len(), 6, "and nothing else");
}

#[tokio::test]
async fn a_cost_that_parquet_cannot_hold_is_named_and_not_rounded() {
    let rig = filled().await;
    // As a table that was adopted may have it.
    rig.sql("ALTER TABLE rated_usage DROP CONSTRAINT rated_usage_money_fits, DROP CONSTRAINT rated_usage_explains_itself;
             UPDATE rated_usage SET cost = 0.1234567890123 WHERE id = 'free'").await;
    let dir = temp_dir();
    let path = dir.path().join("rows.parquet");
    let refused = run(&rig.service.url(), &["usage", "list", "--out", path.to_str().unwrap()]);
    assert_eq!((refused.code(), refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(refused.stderr.contains("free r m): cost 0.1234567890123 does not fit"), "{refused:?}");
    assert_eq!(names(dir.path()), Vec::<String>::new());
    copied(&rig, &["list"], &dir.path().join("rows.csv"));
    assert!(fs::read_to_string(dir.path().join("rows.csv")).unwrap().contains(",0.1234567890123,"));
}

/// A copy on its way, a page a row, over something that stands there.
async fn begun(rig: &Rig, name: &str) -> (Child, TempDir) {
    let dir = temp_dir();
    let path = dir.path().join(name);
    fs::write(&path, "old").unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_rater"))
        .args(["usage", "list", "--page-size", "1", "--server", &rig.service.url(), "--out"])
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("pages are read", async || {
        let asked = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE '-- A page of rated usage%')";
        names(dir.path()).len() == 2 && rig.one::<bool>(asked).await
    })
    .await;
    (child, dir)
}

fn ended(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

#[tokio::test]
async fn a_copy_that_is_killed_leaves_what_stood_there() {
    let rig = many(20_000).await;
    for name in ["rows.parquet", "rows.csv"] {
        let (child, dir) = begun(&rig, name).await;
        signal(&child, Signal::SIGKILL);
        assert_eq!(ended(child).code(), None);
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "old");
        // It can't clean up after itself.
        assert!(names(dir.path()).iter().all(|left| left == name || left.starts_with(&format!(".{name}."))));
    }
}

#[tokio::test]
async fn a_copy_that_is_stopped_leaves_nothing_behind() {
    let rig = many(20_000).await;
    for (name, with) in [("rows.parquet", Signal::SIGTERM), ("rows.csv", Signal::SIGINT)] {
        let (child, dir) = begun(&rig, name).await;
        signal(&child, with);
        let output = ended(child);
        assert_eq!(
            (output.code(), output.stdout.as_str(), output.stderr.lines().count()),
            (Some(1), "", 1),
            "{output:?}"
        );
        assert_eq!(
            (names(dir.path()), fs::read_to_string(dir.path().join(name)).unwrap()),
            (vec![name.into()], "old".into())
        );
    }
}

#[tokio::test]
async fn a_service_that_is_killed_leaves_nothing_of_a_copy_behind() {
    let rig = many(20_000).await;
    let (child, dir) = begun(&rig, "rows.parquet").await;
    rig.service.signal(Signal::SIGKILL);
    let output = ended(child);
    assert_eq!(
        (output.code(), output.stdout.as_str(), output.stderr.lines().count()),
        (Some(1), "", 1),
        "{output:?}"
    );
    assert_eq!(names(dir.path()), ["rows.parquet"]);
    assert_eq!(fs::read_to_string(dir.path().join("rows.parquet")).unwrap(), "old");
}

#[tokio::test]
async fn a_disk_that_is_full_leaves_nothing_of_a_copy_behind() {
    let disk = match Tmpfs::mount(1) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_disk_that_is_full_leaves_nothing_of_a_copy_behind", &why),
    };
    let rig = many(20_000).await;
    for name in ["rows.parquet", "rows.csv", "rows.json", "rows.txt"] {
        let path = disk.path().join(name);
        fs::write(&path, "old").unwrap();
        let full = run(&rig.service.url(), &["usage", "list", "--out", path.to_str().unwrap()]);
        assert_eq!(
            (full.code(), full.stdout.as_str(), full.stderr.lines().count()),
            (Some(1), "", 1),
            "{full:?}"
        );
        assert!(full.stderr.contains("No space left") && full.stderr.contains(name), "{full:?}");
        assert_eq!(
            (names(disk.path()), fs::read_to_string(&path).unwrap()),
            (vec![name.into()], "old".into())
        );
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_file_is_told_in_one_line_without_a_service() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    for (command, more, name, named) in [
        ("list", &["-o", "json"][..], "a.csv", "RATER_OUTPUT"),
        ("summary", &["-o", "csv"], "a.parquet", "RATER_OUTPUT"),
        ("changes", &["--follow"], "a.csv", "--follow"),
        ("list", &[], "a.xlsx", ".parquet, .csv"),
        ("summary", &[], "a", ".parquet, .csv"),
        ("changes", &[], "no/such/a.csv", "no/such/a.csv"),
        ("list", &["--cursor-out", "/no/such/cursor"], "a.csv", "--cursor-out /no/such/cursor"),
        ("changes", &["--cursor-file", "/no/such/cursor"], "a.csv", "--cursor-file /no/such/cursor"),
    ] {
        let out = at(name);
        let output = run("http://127.0.0.1:1", &[&["usage", command, "--out", &out], more].concat());
        assert_eq!((output.code(), output.stderr.lines().count()), (Some(1), 1), "{output:?}");
        assert!(output.stderr.contains(named), "{named}: {}", output.stderr);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn every_option_of_a_copy_may_come_from_the_environment() {
    let rig = filled().await;
    let dir = temp_dir();
    let (rows, cursor) = (dir.path().join("rows.csv"), dir.path().join("cursor"));
    let url = rig.service.url();
    let environment = [
        ("RATER_SERVER", url.as_str()),
        ("RATER_OUT", rows.to_str().unwrap()),
        ("RATER_CURSOR_OUT", cursor.to_str().unwrap()),
        ("RATER_PAGE_SIZE", "2"),
        ("RATER_AUTH_ID", "wide"),
    ];
    let output = run_in(&environment, &["usage", "list"], "");
    assert_eq!((output.code(), output.stdout.as_str()), (Some(0), ""), "{output:?}");
    assert_eq!(fs::read_to_string(&rows).unwrap().lines().count(), 2);
    let cursor = fs::read_to_string(&cursor).unwrap();
    assert!(output.stderr.ends_with(&format!("--cursor {cursor}")), "{output:?} {cursor}");
}
