//! What `--out` leaves behind, and what stands in it.

use super::*;

/// Runs it with `--out` for a file of this name in a new folder, where something stands already.
async fn copy(
    script: Script,
    arguments: &[&str],
    name: &str,
) -> (Ran, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(name);
    fs::write(&path, "old").expect("written");
    let ran = run(script, &[arguments, &["--out", path.to_str().expect("UTF-8")]].concat()).await;
    (ran, dir, path)
}

#[tokio::test]
async fn a_copy_has_all_pages_and_says_how_many_rows_and_where_its_changes_begin() {
    let script = || pages(&[&[row("a", "1"), row("b", "2")], &[row("c", "3")], &[]]);
    for (name, format, lines) in [("a.csv", "csv", 4), ("a.jsonl", "json", 3), ("a.txt", "table", 4)] {
        let (ran, dir, path) = copy(script(), &["list"], name).await;
        assert_eq!((ran.ended, ran.out.as_str()), (Ok(ExitCode::SUCCESS), ""), "{name}");
        let said = format!("rater: wrote 3 rows to {}; its changes: --cursor c1\n", path.display());
        assert_eq!(ran.err, said);
        let text = fs::read_to_string(&path).expect("there");
        assert_eq!(text.lines().count(), lines, "{text}");
        assert_eq!(names(dir.path()), [name]);
        let asked = ran.service.usage();
        let tokens: Vec<_> = asked.iter().map(|page| (page.page_size, page.page_token.as_str())).collect();
        assert_eq!(tokens, [(1_000, ""), (1_000, "page-1"), (1_000, "page-2")]);
        if format != "table" {
            assert_eq!(text, run(script(), &["list", "-o", format]).await.out);
        }
    }
    let (ran, _dir, path) = copy(script(), &["list", "--limit", "2"], "a.csv").await;
    assert_eq!(ran.err, format!("rater: wrote 2 rows to {}\n", path.display()), "it has no changes");
}

#[tokio::test]
async fn a_csv_of_rows_has_every_field() {
    let csv = run(pages(&[&[row("a", "1")]]), &["list", "-o", "csv"]).await.out;
    assert_eq!(
        csv,
        "window_start,auth_id,resource_id,model_id,events,prompt_tokens,cached_tokens,billable_prompt_tokens,\
         completion_tokens,prompt_rate,cached_rate,completion_rate,cost,currency_code,price_class,window_end,\
         pricebook_digest,run_id,rated_at,id\n\
         1970-01-01T01:00:00Z,a,chat,acme/large,2,100,40,60,10,0.000003,0,0.000000000001,1,USD,standard,\
         1970-01-01T02:00:00Z,d,r1,1970-01-01T02:30:00.123456Z,id-a\n"
    );
}

#[tokio::test]
async fn where_a_copys_changes_begin_is_kept_once_it_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let kept = dir.path().join("cursor");
    let option = ["--cursor-out", kept.to_str().expect("UTF-8")];
    let broken = Script {
        usage: pages(&[&[row("a", "1")], &[]]).usage.into_iter().take(1).collect(),
        ..Script::default()
    };
    let ran = run(broken, &[&["list"], &option[..]].concat()).await;
    assert!(ran.ended.is_err() && !kept.exists(), "the second page is not served");
    let ran = run(pages(&[&[row("a", "1")], &[row("b", "1")]]), &[&["list"], &option[..]].concat()).await;
    assert_eq!((ran.ended, ran.err.as_str()), (Ok(ExitCode::SUCCESS), ""));
    assert_eq!(fs::read_to_string(&kept).expect("kept"), "c1\n");
}

#[tokio::test]
async fn a_call_that_breaks_leaves_what_stood_there() {
    let half =
        |script: Script| Script { usage: script.usage.into_iter().take(1).collect(), ..Script::default() };
    let two = || half(pages(&[&[row("a", "1")], &[row("b", "1")]]));
    for name in ["a.parquet", "a.csv", "a.json", "a.txt"] {
        let (ran, dir, path) = copy(two(), &["list"], name).await;
        assert!(ran.ended.expect_err("the second page").starts_with("UNIMPLEMENTED: "));
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
        assert_eq!(
            (names(dir.path()), fs::read_to_string(path).expect("there")),
            (vec![name.into()], "old".into())
        );
        let broken = streams([Streams::breaks([changes("c1", life())])]);
        let (ran, dir, path) = copy(broken, &["changes", "--retry-for", "0s"], name).await;
        assert!(ran.ended.expect_err("broken").starts_with("UNAVAILABLE: "));
        assert_eq!(
            (names(dir.path()), fs::read_to_string(path).expect("there")),
            (vec![name.into()], "old".into())
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_told_before_anything_is_asked() {
    for (arguments, name, said) in [
        (&["list", "-o", "json"][..], "a.csv", "RATER_OUTPUT"),
        (&["summary", "-o", "table"], "a.parquet", "RATER_OUTPUT"),
        (&["changes"], "a.xlsx", ".parquet, .csv"),
        (&["changes", "--follow"], "a.csv", "--follow"),
        (&["list"], "a", ".parquet, .csv"),
        (&["list"], "no/a.csv", "no/a.csv"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        let out = ["--out", path.to_str().expect("UTF-8")];
        let arguments = [arguments, &out, &["--server", "http://127.0.0.1:1"]].concat();
        let command: Command = scripted::parse(&arguments).expect("valid arguments");
        let error = command.run(&mut Console::to(io::sink(), io::sink())).await.expect_err(name);
        assert!(error.contains(said) && error.lines().count() == 1, "{arguments:?}: {error}");
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn parquet_has_every_field_of_a_row_exactly() {
    let widest = "9999999999999999.999999999999";
    let free = RatedUsage { cost: "0".into(), applied_prompt_rate: "0".into(), ..row("b", "0") };
    let adopted = RatedUsage {
        cost: String::new(),
        applied_prompt_rate: String::new(),
        window_end: None,
        rated_at: None,
        prompt_tokens: i64::MAX,
        ..row("c,\"é\n", "")
    };
    let (ran, _dir, path) =
        copy(pages(&[&[row("a", widest), free], &[adopted]]), &["list"], "a.parquet").await;
    assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
    let rows = parquet(&path);
    assert_eq!(
        rows[0],
        [
            "window_start 3600000000us",
            "auth_id a",
            "resource_id chat",
            "model_id acme/large",
            "event_count 2",
            "prompt_tokens 100",
            "cached_tokens 40",
            "billable_prompt_tokens 60",
            "completion_tokens 10",
            "applied_prompt_rate 0.000003000000",
            "applied_cached_rate 0.000000000000",
            "applied_completion_rate 0.000000000001",
            "cost 9999999999999999.999999999999",
            "currency_code USD",
            "price_class standard",
            "window_end 7200000000us",
            "pricebook_digest d",
            "run_id r1",
            "rated_at 9000123456us",
            "id id-a",
        ]
    );
    let cell =
        |row: usize, name: &str| rows[row].iter().find(|cell| cell.starts_with(name)).expect(name).clone();
    let nulls = ["cost null", "applied_prompt_rate null", "window_end null", "rated_at null"];
    assert!(nulls.iter().all(|null| rows[2].iter().any(|cell| cell == null)), "{:?}", rows[2]);
    assert_eq!(cell(1, "cost"), "cost 0.000000000000");
    assert_eq!(cell(2, "prompt_tokens"), format!("prompt_tokens {}", i64::MAX));
    assert_eq!(cell(2, "auth_id"), "auth_id c,\"é\n");
    // Every field of the contract has a column under its name.
    let fields = crate::cli::output::descriptor("rating.v1.RatedUsage").expect("in the contract");
    let mut fields: Vec<String> = fields.fields().map(|field| field.name().to_owned()).collect();
    let mut columns: Vec<String> =
        rows[0].iter().filter_map(|cell| cell.split(' ').next()).map(str::to_owned).collect();
    fields.sort();
    columns.sort();
    assert_eq!(columns, fields);
}

#[tokio::test]
async fn a_decimal_that_parquet_cannot_hold_is_refused_by_name_and_never_rounded() {
    for cost in ["0.1234567890123", "100000000000000000000000000"] {
        let rows = [row("a", "1"), row("b", cost)];
        let (ran, dir, path) = copy(pages(&[&rows]), &["list"], "a.parquet").await;
        let error = ran.ended.expect_err("refused");
        let named = format!("row 2 (1970-01-01T01:00:00Z b chat acme/large): cost {cost} does not fit");
        assert!(error.contains(&named) && error.contains(".csv or .json"), "{error}");
        assert_eq!(
            (names(dir.path()), fs::read_to_string(&path).expect("there")),
            (vec!["a.parquet".into()], "old".into())
        );
        let (ran, _dir, path) = copy(pages(&[&rows]), &["list"], "a.csv").await;
        assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
        assert!(fs::read_to_string(&path).expect("there").contains(&format!(",{cost},")));
    }
}

#[tokio::test]
async fn parquet_of_totals_and_changes() {
    let (_, _dir, path) =
        copy(totals(&[&[total("a", "12345678901234567890.5")]]), &["summary", "--by", "month"], "a.parquet")
            .await;
    assert_eq!(
        parquet(&path),
        [[
            "period_start 0us",
            "event_count 2",
            "prompt_tokens 5",
            "cached_tokens 4",
            "completion_tokens 3",
            "cost 12345678901234567890.500000000000",
            "currency_code USD"
        ]]
    );
    let script = streams([Streams::ends([changes("c1", life())])]);
    let (ran, _dir, path) = copy(script, &["changes"], "a.parquet").await;
    assert_eq!(ran.err, format!("rater: wrote 3 rows to {}; to go on: --cursor c1\n", path.display()));
    let rows = parquet(&path);
    let has = |row: usize, cells: &[&str]| {
        let missing: Vec<_> = cells.iter().filter(|cell| !rows[row].iter().any(|has| has == *cell)).collect();
        assert!(missing.is_empty(), "{missing:?}: {:?}", rows[row]);
    };
    has(
        0,
        &["change_id 1", "operation insert", "before_cost null", "after_cost 0.500000000000", "auth_id acme"],
    );
    has(
        0,
        &["before_prompt_tokens null", "before_run_id null", "after_run_id r1", "changed_at 9000000005us"],
    );
    has(1, &["operation update", "before_cost 0.500000000000", "cost_change -0.000100000000"]);
    has(2, &["operation delete", "after_cost null", "after_rated_at null", "before_rated_at 9000123456us"]);
    has(2, &["window_start 3600000000us", "cost_change -0.499900000000", "id id-acme"]);
}

#[tokio::test]
async fn parquet_without_rows_has_its_columns() {
    let (ran, _dir, path) = copy(pages(&[&[]]), &["list"], "a.parquet").await;
    assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
    let reader = SerializedFileReader::new(fs::File::open(&path).expect("there")).expect("Parquet");
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    assert_eq!((schema.num_columns(), parquet(&path).len()), (20, 0));
}

#[tokio::test]
async fn parquet_is_written_in_groups_of_a_bounded_size() {
    let page: Vec<RatedUsage> = (0..3_500).map(|n| row(&n.to_string(), "1")).collect();
    let many: Vec<&[RatedUsage]> = (0..20).map(|_| page.as_slice()).collect();
    let (ran, _dir, path) = copy(pages(&many), &["list"], "a.parquet").await;
    assert_eq!(ran.ended, Ok(ExitCode::SUCCESS));
    let reader = SerializedFileReader::new(fs::File::open(&path).expect("there")).expect("Parquet");
    let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [65_536, 70_000 - 65_536]);
    let last = parquet(&path).pop().expect("rows");
    assert!(last.contains(&"auth_id 3499".to_string()), "{last:?}");
}
