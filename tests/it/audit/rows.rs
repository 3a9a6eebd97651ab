//! Every rated row against what it says itself (R13).

use super::{UNCHECKED, audit, command, fill, listed, totals};
use crate::harness::event;
use crate::rig::{BOOK, Rig, backfill};

#[tokio::test]
async fn r13_what_the_service_wrote_agrees_and_nothing_of_it_is_touched() {
    let rig =
        Rig::with_events([event("a"), event("b").auth("b").tokens(7, 9, 1), event("c").model("none")]).await;
    rig.rated(backfill(10, 11)).await;
    let before = rig.versions("rated_usage").await;
    let (code, said) = audit(&rig, &[]);
    assert_eq!((code, totals(&said)), (Some(0), vec![]), "{said}");
    assert_eq!((&said["agrees"], &said["job"]["state"]), (&true.into(), &"succeeded".into()));
    assert_eq!((&said["job"]["rows_done"], &said["job"]["rows"]), (&"2".into(), &"2".into()));
    assert_eq!(rig.versions("rated_usage").await, before);
    let table = command(&rig, &["audit", "status"]);
    assert!(table.code() == Some(0) && table.stdout.ends_with("\nall of it agrees\n"), "{table:?}");
}

#[tokio::test]
async fn r13_each_kind_of_row_that_does_not_agree_is_told_in_money() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 3_000).await;
    rig.sql(UNCHECKED).await;
    let hour = |n: u32| format!("window_start = '2026-06-01Z'::timestamptz + {n} * interval '1 hour'");
    let one = |n: u32, a: u32| format!("WHERE {} AND auth_id = 'auth-{a}'", hour(n));
    rig.sql(&format!(
        "UPDATE rated_usage SET cost = cost + 0.000000000001 {};
         UPDATE rated_usage SET cost = cost + 0.25, currency_code = 'EUR' WHERE {};
         UPDATE rated_usage SET cost = NULL {};
         UPDATE rated_usage SET applied_cached_rate = NULL {};
         UPDATE rated_usage SET cost = 'NaN' {};
         UPDATE rated_usage SET cost = 'Infinity' {};
         UPDATE rated_usage SET applied_prompt_rate = 1e100000 {};
         UPDATE rated_usage SET billable_prompt_tokens = 59, cost = cost - 0.000003 {};
         UPDATE rated_usage SET prompt_tokens = 9223372036854775807, cached_tokens = -9223372036854775808 {};
         UPDATE rated_usage SET window_start = window_start + interval '30 minutes' {};
         UPDATE rated_usage SET window_start = 'infinity' {};
         UPDATE rated_usage SET window_end = window_end + interval '1 hour' {};
         UPDATE rated_usage SET currency_code = 'GBP' {}",
        one(0, 1),
        hour(1),
        one(2, 1),
        one(2, 2),
        one(3, 1),
        one(3, 2),
        one(3, 3),
        one(4, 1),
        one(4, 2),
        one(5, 1),
        one(5, 2),
        one(5, 3),
        one(6, 99)
    ))
    .await;
    let (code, said) = audit(&rig, &[]);
    assert_eq!(code, Some(2), "{said}");
    let cost = |said: &[String], finding: &str| -> Vec<String> {
        said.iter().filter(|line| line.starts_with(finding)).cloned().collect()
    };
    let said = totals(&said);
    // Each costs 0.000342.
    assert_eq!(cost(&said, "cost EUR"), ["cost EUR 100 25.0342 25 0"], "{said:?}");
    let large = "cost USD 2 0.000684000001 2767011611056.432754400001 0";
    assert_eq!(cost(&said, "cost USD"), [large], "cached tokens below nothing cost below nothing");
    assert_eq!(cost(&said, "incomplete"), ["incomplete USD 2 0.000342 0 0"]);
    assert_eq!(cost(&said, "no_money"), ["no_money USD 3 0.000342 0 0"]);
    assert_eq!(cost(&said, "tokens"), ["tokens USD 1 0.000339 0 0"]);
    assert_eq!(cost(&said, "hour"), ["hour USD 3 0.001026 0 0"]);
    assert_eq!(cost(&said, "currency"), ["currency USD 99 0.033858 0 0"], "the hour's first is another");
    assert!(said.iter().any(|line| line.starts_with("foreign_id USD 1 ")), "{said:?}");
    let rows = listed(&rig);
    assert_eq!(rows.len(), 100 + 2 + 2 + 3 + 1 + 3 + 99);
    let of = |finding: &str| rows.iter().filter(|row| row["finding"] == finding).collect::<Vec<_>>();
    let first = of("cost")[0];
    assert_eq!((&first["billed"], &first["expected"]), (&"0.000342000001".into(), &"0.000342".into()));
    assert_eq!(of("incomplete")[0]["detail"], "has no cost");
    assert_eq!(of("hour").last().unwrap()["window_start"], "infinity");
}

#[tokio::test]
async fn r01_sums_of_any_size_stay_exact() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 100).await;
    rig.sql(UNCHECKED).await;
    rig.sql("UPDATE rated_usage SET cost = 9999999999999999.999999999999").await;
    let (code, said) = audit(&rig, &[]);
    let each = "999999999999999999.9999999999";
    assert_eq!(
        (code, totals(&said)),
        (Some(2), vec![format!("cost USD 100 {each} 999999999999999999.9657999999 0")])
    );
}

#[tokio::test]
async fn rows_of_an_adopted_table_may_lack_what_r13_does_without() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 200).await;
    rig.sql(UNCHECKED).await;
    rig.sql(
        "UPDATE rated_usage SET id = md5(id), currency_code = NULL, event_count = NULL,
             billable_prompt_tokens = NULL",
    )
    .await;
    let (code, said) = audit(&rig, &[]);
    assert_eq!(
        (code, totals(&said)),
        (Some(0), vec!["foreign_id  200 0.0684 0 0".into(), "unstated  200 0.0684 0 0".into()])
    );
    assert_eq!(listed(&rig).len(), 0);
}

#[tokio::test]
async fn a_window_is_audited_and_the_next_audit_forgets_the_last_one() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 1_000).await;
    rig.sql(&format!("{UNCHECKED}; UPDATE rated_usage SET cost = 0")).await;
    let window = ["--since", "2026-06-01T02:00:00Z", "--until", "2026-06-01T05:00:00Z"];
    for _ in 0..2 {
        let (code, said) = audit(&rig, &window);
        assert_eq!((code, totals(&said)), (Some(2), vec!["cost USD 300 0 0 0.1026".into()]));
        assert_eq!((&said["job"]["rows_done"], &said["job"]["rows"]), (&"300".into(), &"300".into()));
    }
    let csv = command(&rig, &["audit", "status", "-o", "csv"]);
    assert_eq!(csv.code(), Some(2));
    assert_eq!(
        csv.stdout,
        "finding,currency_code,rows,billed,over_billed,under_billed\ncost,USD,300,0,0,0.1026\n"
    );
    let listed = command(&rig, &["audit", "list", "-o", "csv", "--limit", "2"]);
    assert_eq!(listed.stdout.lines().count(), 3, "{listed:?}");
    rig.sql("DELETE FROM rated_usage").await;
    assert_eq!(audit(&rig, &[]).0, Some(0));
}

#[tokio::test]
async fn what_is_wrong_with_the_options_is_one_line() {
    let rig = Rig::start(BOOK, &[]).await;
    for (options, line) in [
        (&["audit", "--from-events"][..], "--from-events needs --pricebook"),
        (&["audit", "--from-events", "--pricebook", "/no/such"], "--pricebook /no/such: No such file"),
        (&["audit", "--since", "2026-06-01T10:30:00Z"], "full UTC hour"),
        (&["audit", "--since", "0001-01-01T00:00:00Z"], "the years 1900 to 9999"),
        (
            &["audit", "--since", "2026-06-02T00:00:00Z", "--until", "2026-06-01T00:00:00Z"],
            "--until must lie after",
        ),
        (&["audit", "list", "--limit", "0"], "--limit"),
        (&["audit", "--rated-within", "367d"], "must be at most 366d"),
        (&["retention", "run"], "--change-retention"),
        (&["retention", "run", "--change-retention", "1s"], "must be at least 1m"),
    ] {
        let output = command(&rig, options);
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{options:?}");
        assert!(output.stderr.contains(line), "{options:?}: {}", output.stderr);
    }
    let never = command(&rig, &["audit", "status", "-o", "json"]);
    assert!(never.code() == Some(1) && never.stdout.contains(r#""state":"never""#), "{never:?}");
}
