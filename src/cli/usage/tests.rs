//! Against a service that answers from a script.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use prost_types::Timestamp;

use super::*;
use crate::cli::scripted::{self, Ran};
use crate::grpc::client::scripted::Answer;
use crate::grpc::client::scripted::rating::{Script, ScriptedRating, Streams, change, changes, serve};
use crate::proto::*;
use crate::service::Error;

mod copies;

/// Runs `rater usage COMMAND ARGUMENTS`.
async fn run(script: Script, arguments: &[&str]) -> Ran {
    scripted::run::<Command>(script, arguments).await
}

async fn run_on(
    script: Script,
    arguments: &[&str],
    console: Console<'_>,
) -> (Result<ExitCode, String>, ScriptedRating) {
    scripted::run_on::<Command>(script, arguments, console).await
}

fn at(seconds: i64, micros: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: micros * 1_000 })
}

fn row(auth_id: &str, cost: &str) -> RatedUsage {
    RatedUsage {
        id: format!("id-{auth_id}"),
        auth_id: auth_id.into(),
        resource_id: "chat".into(),
        model_id: "acme/large".into(),
        window_start: at(3_600, 0),
        window_end: at(7_200, 0),
        prompt_tokens: 100,
        billable_prompt_tokens: 60,
        cached_tokens: 40,
        completion_tokens: 10,
        event_count: 2,
        currency_code: "USD".into(),
        cost: cost.into(),
        applied_prompt_rate: "0.000003".into(),
        applied_cached_rate: "0".into(),
        applied_completion_rate: "0.000000000001".into(),
        pricebook_digest: "d".into(),
        run_id: "r1".into(),
        rated_at: at(9_000, 123_456),
        price_class: "standard".into(),
    }
}

/// Pages of rows, the first of which has the cursor `c1`.
fn pages(pages: &[&[RatedUsage]]) -> Script {
    let answer = |(page, rows): (usize, &&[RatedUsage])| {
        let next_page_token =
            if page + 1 < pages.len() { format!("page-{}", page + 1) } else { String::new() };
        let change_cursor = format!("c{}", page + 1);
        Answer::Is(GetRatedUsageResponse { rated_usage: rows.to_vec(), next_page_token, change_cursor })
    };
    Script { usage: pages.iter().enumerate().map(answer).collect(), ..Script::default() }
}

fn total(auth_id: &str, cost: &str) -> UsageSummary {
    UsageSummary {
        auth_id: auth_id.into(),
        model_id: "m".into(),
        period_start: at(0, 0),
        prompt_tokens: 5,
        cached_tokens: 4,
        completion_tokens: 3,
        event_count: 2,
        currency_code: "USD".into(),
        cost: cost.into(),
        ..UsageSummary::default()
    }
}

fn totals(pages: &[&[UsageSummary]]) -> Script {
    let answer = |(page, summaries): (usize, &&[UsageSummary])| {
        let next_page_token = if page + 1 < pages.len() { "more".into() } else { String::new() };
        Answer::Is(SummarizeRatedUsageResponse { summaries: summaries.to_vec(), next_page_token })
    };
    Script { summary: pages.iter().enumerate().map(answer).collect(), ..Script::default() }
}

fn moved(change_id: &str, before: Option<RatedUsage>, after: Option<RatedUsage>) -> RatedUsageChange {
    let (run_id, trigger) = ("r1".into(), Trigger::Backfill.into());
    RatedUsageChange { before, after, run_id, trigger, changed_at: at(9_000, 5), ..change(change_id) }
}

/// An insert, an update and a delete.
fn life() -> [RatedUsageChange; 3] {
    [
        moved("1", None, Some(row("acme", "0.5"))),
        moved("2", Some(row("acme", "0.5")), Some(row("acme", "0.4999"))),
        moved("3", Some(row("acme", "0.4999")), None),
    ]
}

fn streams(streams: impl IntoIterator<Item = Streams<StreamRatedUsageChangesResponse>>) -> Script {
    Script { changes: streams.into_iter().map(Answer::Is).collect(), ..Script::default() }
}

/// The rows of a Parquet file, `NAME VALUE` a column.
fn parquet(path: &Path) -> Vec<Vec<String>> {
    let reader = SerializedFileReader::new(fs::File::open(path).expect("there")).expect("Parquet");
    let rows = reader.get_row_iter(None).expect("rows");
    let text = |field: &Field| match field {
        Field::Str(text) => text.clone(),
        Field::TimestampMicros(micros) => format!("{micros}us"),
        field => field.to_string(),
    };
    rows.map(|row| {
        let row = row.expect("a row");
        row.get_column_iter().map(|(name, field)| format!("{name} {}", text(field))).collect()
    })
    .collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Fails every write in this way.
struct Broken(ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

#[tokio::test]
async fn a_summary_has_the_columns_that_it_is_grouped_by_and_all_pages() {
    let script = || totals(&[&[total("a", "12.5"), total("b", "3")], &[total("c", "0")]]);
    let ran = run(script(), &["summary", "--by", "day,auth-id", "--by", "model-id", "-o", "csv"]).await;
    assert_eq!((ran.ended, ran.err.as_str()), (Ok(ExitCode::SUCCESS), ""));
    assert_eq!(
        ran.out.lines().collect::<Vec<_>>(),
        [
            "auth_id,model_id,period_start,events,prompt_tokens,cached_tokens,completion_tokens,cost,currency_code",
            "a,m,1970-01-01T00:00:00Z,2,5,4,3,12.5,USD",
            "b,m,1970-01-01T00:00:00Z,2,5,4,3,3,USD",
            "c,m,1970-01-01T00:00:00Z,2,5,4,3,0,USD",
        ]
    );
    let asked = ran.service.summarized();
    assert_eq!(asked[0].group_by, [Dimension::Day, Dimension::AuthId, Dimension::ModelId].map(i32::from));
    let tokens: Vec<_> = asked.iter().map(|page| (page.page_size, page.page_token.as_str())).collect();
    assert_eq!(tokens, [(0, ""), (0, "more")]);

    let ran = run(script(), &["summary", "--limit", "2"]).await;
    assert_eq!((ran.out.lines().count(), ran.service.summarized().len()), (3, 1));
    assert!(ran.out.starts_with("events"), "{}", ran.out);
    assert_eq!(ran.service.summarized()[0].page_size, 2);
    let ran = run(script(), &["summary", "--by", "auth-id", "-o", "json"]).await;
    assert_eq!(ran.out.lines().count(), 3);
    assert!(ran.out.starts_with(r#"{"auth_id":"a","resource_id":"","#), "{}", ran.out);
}

#[tokio::test]
async fn the_dearest_are_asked_for_without_pages() {
    let arguments =
        ["summary", "--top", "2", "--limit", "1", "--by", "auth-id", "--since", "2026-06-01T00:00:00Z"];
    let ran = run(totals(&[&[total("a", "9"), total("b", "3")]]), &arguments).await;
    let asked = ran.service.summarized().remove(0);
    assert_eq!((asked.top, asked.page_size, asked.page_token.as_str()), (2, 0, ""));
    assert!(asked.filter.expect("a filter").since.is_some());
    assert_eq!(ran.out.lines().count(), 2);
}

#[tokio::test]
async fn a_change_is_a_line_with_what_was_before_and_what_is_now() {
    let ran = run(streams([Streams::ends([changes("c9", life())])]), &["changes", "-o", "csv"]).await;
    assert_eq!((ran.ended, ran.err.as_str()), (Ok(ExitCode::SUCCESS), "rater: to go on: --cursor c9\n"));
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 4);
    let column = |name: &str| {
        let at = lines[0].iter().position(|header| *header == name).expect(name);
        [lines[1][at], lines[2][at], lines[3][at]]
    };
    assert_eq!(column("change_id"), ["1", "2", "3"]);
    assert_eq!(column("operation"), ["insert", "update", "delete"]);
    assert_eq!((column("trigger"), column("run_id")), (["backfill"; 3], ["r1"; 3]));
    assert_eq!((column("auth_id"), column("price_class")), (["acme"; 3], ["standard"; 3]));
    assert_eq!(column("window_start"), ["1970-01-01T01:00:00Z"; 3]);
    assert_eq!(column("changed_at"), ["1970-01-01T02:30:00.000005Z"; 3]);
    assert_eq!((column("previous_cost"), column("cost")), (["", "0.5", "0.4999"], ["0.5", "0.4999", ""]));
    assert_eq!(column("cost_change"), ["0.5", "-0.0001", "-0.4999"]);
    assert_eq!(column("previous_prompt_tokens"), ["", "100", "100"]);
    assert_eq!(column("prompt_tokens"), ["100", "100", ""]);
    let mut headers = lines[0].clone();
    headers.sort_unstable();
    headers.dedup();
    assert_eq!(headers.len(), lines[0].len(), "no header twice");

    let ran = run(streams([Streams::ends([changes("c9", life())])]), &["changes", "-o", "json"]).await;
    let json: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(
        (json.len(), &json[0]["change_id"], &json[2]["before"]["cost"]),
        (3, &"1".into(), &"0.4999".into())
    );
}

#[tokio::test]
async fn a_table_of_changes_has_its_headers_once_and_a_line_a_change() {
    let messages = life().map(|change| changes("c", [change]));
    let ran = run(streams([Streams::ends(messages)]), &["changes"]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.out);
    assert!(lines[0].starts_with("change_id  changed_at"), "{}", ran.out);
    assert!(lines[3].contains("delete") && lines[3].contains("-0.4999"), "{}", ran.out);
    assert!(!lines[0].contains("rate"), "what a person doesn't ask for: {}", lines[0]);
}

#[tokio::test]
async fn a_difference_that_is_not_exact_is_left_out() {
    let long = "0.1234567890123456789012345678901";
    let updated = moved("1", Some(row("a", long)), Some(row("a", "1")));
    let unknown = moved("2", Some(row("a", "")), Some(row("a", "1")));
    let ran =
        run(streams([Streams::ends([changes("c", [updated, unknown])])]), &["changes", "-o", "csv"]).await;
    let ends: Vec<bool> = ran.out.lines().skip(1).map(|line| line.contains(",1,,USD,")).collect();
    assert!(ran.out.contains(&format!(",{long},1,,")), "{}", ran.out);
    assert_eq!(ends.len(), 2, "{}", ran.out);
}

#[tokio::test]
async fn changes_go_on_over_an_absence_and_each_is_printed_once() {
    let script = Script {
        changes: [
            Answer::Is(Streams::breaks([changes("c1", [change("1"), change("2")])])),
            Answer::Fails(ErrorKind::ConnectionRefused),
            Answer::Is(Streams::breaks([changes("c3", [change("3")])])),
            Answer::Refuses(Error::CursorExpired),
        ]
        .into(),
        ..Script::default()
    };
    let ran = run(script, &["changes", "--follow", "--cursor", "c0", "-o", "csv", "--auth-id", "a"]).await;
    let error = ran.ended.expect_err("expired");
    assert!(error.starts_with("FAILED_PRECONDITION: ") && error.contains("new first copy"), "{error}");
    assert!(!error.contains("--cursor"), "it is good no more: {error}");
    let ids: Vec<&str> = ran.out.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(ran.err.lines().count(), 2, "once an absence: {}", ran.err);
    let asked = ran.service.followed();
    let cursors: Vec<&str> = asked.iter().map(|request| request.cursor.as_str()).collect();
    assert_eq!(cursors, ["c0", "c1", "c1", "c3"]);
    assert!(
        asked
            .iter()
            .all(|request| request.follow && request.filter.as_ref().is_some_and(|f| f.auth_ids == ["a"]))
    );
}

#[tokio::test]
async fn who_gives_up_says_where_to_go_on() {
    let first = Answer::Is(Streams::breaks([changes("c1", [change("1")])]));
    let script = Script { changes: [first].into(), ..Script::default() };
    let ran = run(script, &["changes", "--retry-for", "0s"]).await;
    assert_eq!(ran.ended, Err("UNAVAILABLE: later; to go on: --cursor c1".into()));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("changes.csv");
    let first = Answer::Is(Streams::breaks([changes("c1", [change("1")])]));
    let script = Script { changes: [first].into(), ..Script::default() };
    let out = file.to_str().expect("UTF-8");
    let ran = run(script, &["changes", "--retry-for", "0s", "--out", out]).await;
    assert_eq!(ran.ended, Err("UNAVAILABLE: later".into()), "no file holds what comes before c1");
    let ran = run(Script::default(), &["changes", "--cursor", "c1"]).await;
    let error = ran.ended.expect_err("not served");
    assert!(error.starts_with("UNIMPLEMENTED: ") && !error.contains("--cursor"), "{error}");
}

#[tokio::test]
async fn a_cursor_is_noted_after_what_it_stands_after_and_read_before_the_option() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cursor");
    let file = path.to_str().expect("UTF-8");
    let script = || streams([Streams::ends([changes("c1", life()), changes("c2", [])])]);
    let arguments = ["changes", "-o", "csv", "--cursor", "c0", "--cursor-file", file];
    let ran = run(script(), &arguments).await;
    assert_eq!((ran.ended, ran.service.followed()[0].cursor.as_str()), (Ok(ExitCode::SUCCESS), "c0"));
    assert_eq!(fs::read_to_string(&path).expect("noted"), "c2\n");
    let ran = run(script(), &arguments).await;
    assert_eq!(ran.service.followed()[0].cursor, "c2");
    assert_eq!(names(dir.path()), ["cursor"]);

    for broken in [ErrorKind::StorageFull, ErrorKind::BrokenPipe] {
        fs::write(&path, "c0\n").expect("written");
        run_on(script(), &arguments, Console::to(Broken(broken), io::sink()))
            .await
            .0
            .map(drop)
            .unwrap_or_default();
        assert_eq!(fs::read_to_string(&path).expect("there"), "c0\n", "nothing was printed: {broken}");
    }
    fs::write(&path, "no cursor").expect("written");
    let ran = run(script(), &arguments).await;
    assert!(ran.ended.expect_err("refused").contains("holds no cursor"));
    assert_eq!(ran.service.followed().len(), 0);
}

#[tokio::test]
async fn a_reader_that_is_gone_is_no_failure() {
    let ends = || streams([Streams::hangs([changes("c1", life())])]);
    for format in ["json", "csv", "table"] {
        let gone = || Console::to(Broken(ErrorKind::BrokenPipe), Broken(ErrorKind::BrokenPipe));
        let (ended, _) = run_on(ends(), &["changes", "--follow", "-o", format], gone()).await;
        assert_eq!(ended, Ok(ExitCode::SUCCESS), "{format}");
        let (ended, _) = run_on(pages(&[&[row("a", "1")]]), &["list", "-o", format], gone()).await;
        assert_eq!(ended, Ok(ExitCode::SUCCESS), "{format}");
        let (ended, _) = run_on(totals(&[&[total("a", "1")]]), &["summary", "-o", format], gone()).await;
        assert_eq!(ended, Ok(ExitCode::SUCCESS), "{format}");
    }
}

#[tokio::test]
async fn following_prints_what_has_come_and_ends_in_order_when_it_is_asked_to() {
    let service = serve(streams([Streams::hangs([changes("c1", life())])])).await;
    let url = service.server().url;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cursor");
    let file = path.to_str().expect("UTF-8");
    let arguments = ["changes", "-f", "-o", "json", "--cursor-file", file, "--server", &url];
    let command: Command = scripted::parse(&arguments).expect("valid arguments");
    let Command::Changes(changes) = command else { panic!("changes") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let noted = async {
        while !path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let mut console = Console::to(&mut out, &mut err);
    let ended = changes.read(noted, &mut console).await;
    drop(console);
    assert_eq!(ended, Ok(ExitCode::SUCCESS));
    assert_eq!(String::from_utf8_lossy(&out).lines().count(), 3);
    assert_eq!(String::from_utf8_lossy(&err), "rater: to go on: --cursor c1\n");
    assert_eq!(fs::read_to_string(&path).expect("noted"), "c1\n");
}
