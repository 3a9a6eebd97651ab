//! `rater usage summary`.

use std::fs::{self, File};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::harness::{Output, event, run, run_in, temp_dir};
use crate::rig::{BOOK, Rig, backfill};

/// Two customers, two models, two hours: `a` has 0.00135 of 3 events, `b` 0.000026 of one.
async fn filled() -> Rig {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert([
        event("1").auth("a"),
        event("2").auth("a"),
        event("3").auth("a").at("2026-06-01T11:15:00Z"),
        event("4").auth("b").model("acme/small"),
    ])
    .await;
    rig.rated(backfill(10, 12)).await;
    rig
}

fn summary(rig: &Rig, more: &[&str]) -> Output {
    let output = run(&rig.service.url(), &[&["usage", "summary"], more].concat());
    assert_eq!((output.code(), output.stderr.as_str()), (Some(0), ""), "{more:?} {output:?}");
    output
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[tokio::test]
async fn totals_have_a_line_for_each_of_what_they_are_grouped_by() {
    let rig = filled().await;
    let counts = "events,prompt_tokens,cached_tokens,completion_tokens,cost,currency_code";
    let csv = |by: &[&str]| summary(&rig, &[by, &["-o", "csv"]].concat()).stdout;
    assert_eq!(lines(&csv(&[])), [counts, "4,400,0,40,0.001376,USD"]);
    assert_eq!(
        lines(&csv(&["--by", "auth-id"])),
        [&format!("auth_id,{counts}"), "a,3,300,0,30,0.00135,USD", "b,1,100,0,10,0.000026,USD"]
    );
    assert_eq!(
        lines(&csv(&["--by", "hour,model-id"])),
        [
            &format!("model_id,period_start,{counts}"),
            "acme/large,2026-06-01T10:00:00Z,2,200,0,20,0.0009,USD",
            "acme/large,2026-06-01T11:00:00Z,1,100,0,10,0.00045,USD",
            "acme/small,2026-06-01T10:00:00Z,1,100,0,10,0.000026,USD",
        ]
    );
    assert_eq!(csv(&["--by", "hour", "--by", "model-id"]), csv(&["--by", "hour,model-id"]));
    assert_eq!(lines(&csv(&["--by", "auth-id", "--top", "1"]))[1..], ["a,3,300,0,30,0.00135,USD"]);
    assert_eq!(lines(&csv(&["--by", "auth-id", "--limit", "1"]))[1..], ["a,3,300,0,30,0.00135,USD"]);
    assert_eq!(lines(&csv(&["--by", "auth-id", "--model-id", "acme/small"])).len(), 2);
    assert_eq!(lines(&csv(&["--by", "month", "--until", "2026-06-01T10:00:00Z"])).len(), 1);
    let table = summary(&rig, &["--by", "auth-id"]).stdout;
    assert!(table.starts_with("auth_id") && !table.contains("model_id"), "{table}");
    let json: Value = serde_json::from_str(&summary(&rig, &["-o", "json"]).stdout).unwrap();
    assert_eq!((&json["cost"], &json["event_count"]), (&"0.001376".into(), &"4".into()));
}

#[tokio::test]
async fn totals_go_to_files_and_options_come_from_the_environment() {
    let rig = filled().await;
    let dir = temp_dir();
    let url = rig.service.url();
    for (name, by, rows) in [("a.parquet", "auth-id,day", 2), ("a.csv", "hour", 2), ("a.json", "model-id", 2)]
    {
        let path = dir.path().join(name);
        let out = path.to_str().unwrap();
        let environment =
            [("RATER_SERVER", url.as_str()), ("RATER_BY", by), ("RATER_OUT", out), ("RATER_TOP", "5")];
        let output = run_in(&environment, &["usage", "summary"], "");
        assert_eq!(output.code(), Some(0), "{output:?}");
        assert_eq!(
            (output.stdout.as_str(), output.stderr),
            ("", format!("rater: wrote {rows} rows to {out}\n"))
        );
    }
    assert_eq!(fs::read_to_string(dir.path().join("a.csv")).unwrap().lines().count(), 3);
    let file = File::open(dir.path().join("a.parquet")).unwrap();
    let rows = SerializedFileReader::new(file).unwrap();
    let cells = rows.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        row.get_column_iter().map(|(name, field)| format!("{name} {field}")).collect::<Vec<_>>().join(", ")
    });
    let counts = "prompt_tokens 300, cached_tokens 0, completion_tokens 30, cost 0.001350000000";
    let period = "period_start 2026-06-01 00:00:00.000000 +00:00, event_count 3";
    let first = format!("auth_id \"a\", {period}, {counts}, currency_code \"USD\"");
    assert_eq!(cells.collect::<Vec<_>>()[0], first);
}

#[tokio::test]
async fn what_cannot_be_summed_up_is_refused_in_one_line() {
    let rig = filled().await;
    let refused = run(&rig.service.url(), &["usage", "summary", "--top", "100000"]);
    assert_eq!((refused.code(), refused.stdout.as_str(), refused.stderr.lines().count()), (Some(1), "", 1));
    assert!(refused.stderr.starts_with("rater: INVALID_ARGUMENT: top"), "{refused:?}");
    for wrong in [&["--by", "colour"][..], &["--top", "0"], &["--limit", "x"]] {
        let output = run(&rig.service.url(), &[&["usage", "summary"], wrong].concat());
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{wrong:?}");
        assert!(output.stderr.contains(wrong[0]), "{output:?}");
    }
}
