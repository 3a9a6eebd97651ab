//! What the invoicing API is told: each line once, as far as anybody can know.

use std::collections::BTreeMap;

use super::*;
use crate::harness::temp_dir;
use crate::proxy::{Deed, Proxy, Side, Spot};

/// A ledger with these lines: id, customer, age of its hour in hours, amount.
async fn with_lines(lines: &[(&str, &str, i64, &str)]) -> Consumer {
    let ledger = Consumer::new().await;
    ledger.did("", &["customer", "acme", "cus_acme"]).await;
    for (id, auth_id, age, amount) in lines {
        ledger
            .sql(&format!(
                "INSERT INTO ledger_line (line_id, auth_id, resource_id, model_id, window_start, price_class,
                    currency, prompt_tokens, cached_tokens, completion_tokens, event_count, amount, kind)
                 SELECT '{id}', '{auth_id}', 'r', 'm', date_trunc('hour', now()) - interval '{age} hours',
                    'standard', 'USD', 1, 0, 0, 1, {amount}, 'usage'"
            ))
            .await;
    }
    ledger
}

/// Another line, ID-2, that takes a line back.
async fn taken_back(ledger: &Consumer, id: &str) {
    let sql = "INSERT INTO ledger_line (line_id, auth_id, resource_id, model_id, window_start,
            price_class, currency, prompt_tokens, cached_tokens, completion_tokens, event_count, amount, kind)
        SELECT line_id || '-2', auth_id, resource_id, model_id, window_start, price_class, currency,
            -prompt_tokens, 0, 0, -1, -amount, 'correction' FROM ledger_line WHERE line_id = '{id}'";
    ledger.sql(&sql.replace("{id}", id)).await;
}

/// What is sent: identifier, and amount or value.
fn sent(text: &str) -> Vec<(String, String)> {
    let said = |line: &str| {
        let request: Value = serde_json::from_str(line).unwrap();
        let value = match request["channel"].as_str().unwrap() {
            "meter" => &request["body"]["payload"]["value"],
            _ => &request["body"]["amount"],
        };
        (request["id"].as_str().unwrap().to_string(), value.as_str().unwrap().to_string())
    };
    text.lines().map(said).collect()
}

#[tokio::test]
async fn a_line_of_a_known_customer_is_a_meter_event_and_is_told_once() {
    let lines = [
        ("a", "acme", 5, "0.00045"),
        ("b", "acme", 30, "-0.000000000001"),
        ("c", "globex", 5, "1"),
        ("nothing", "acme", 5, "0"),
    ];
    let ledger = with_lines(&lines).await;
    let printed = ledger.did("", &["deliver", "--to", "-"]).await;
    let first: Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    let first = &first["body"];
    assert_eq!((&first["event_name"], &first["identifier"]), (&"rater_cost_usd".into(), &"a".into()));
    assert_eq!(first["payload"]["stripe_customer_id"], "cus_acme");
    let hour = "SELECT extract(epoch FROM window_start)::bigint FROM ledger_line WHERE line_id = 'a'";
    assert_eq!(first["timestamp"], ledger.number(hour).await);
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(id, value)| (id.to_string(), value.to_string())).collect()
    };
    assert_eq!(sent(&printed), pairs(&[("a", "450000000"), ("b", "-1")]));
    assert_eq!(ledger.did("", &["deliver", "--to", "-"]).await, "");

    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("not begun"), "{status}");
    ledger.sql("INSERT INTO consumer DEFAULT VALUES").await;
    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("globex: 1 lines wait"), "{status}");
    ledger.did("", &["customer", "globex", "cus_globex"]).await;
    assert_eq!(sent(&ledger.did("", &["deliver", "--to", "-"]).await), pairs(&[("c", "1000000000000")]));
    let totals = ledger.did("", &["totals", "--json"]).await;
    assert!(totals.lines().all(|line| {
        let total: Value = serde_json::from_str(line).unwrap();
        total["amount"] == total["told"]
    }));
}

#[tokio::test]
async fn a_line_that_the_meter_no_longer_takes_is_part_of_one_invoice_item() {
    // 34 days are 816 hours; the meter takes 35, and the last of them is for sending again.
    let lines = [
        ("young", "acme", 815, "0.1"),
        ("old", "acme", 817, "0.2"),
        ("older", "acme", 9_000, "-0.0500000000001"),
        ("final", "acme", 100, "0.000000000001"),
    ];
    let ledger = with_lines(&lines).await;
    let until = ledger.texts(
        "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '50 hours', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    );
    let until = until.await.remove(0);
    let told = sent(&ledger.did("", &["deliver", "--to", "-"]).await);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], ("young".into(), "100000000000".into()));
    assert_eq!(told[1], ("final".into(), "1".into()));
    assert_eq!(told[2].1, "0.1499999999999");
    assert!(told[2].0.starts_with("item-"));

    // The invoice is final: a correction of the same hour is an item, and an earlier time does not
    // open it again.
    ledger.did("", &["customer", "acme", "cus_acme", "--billed-until", &until]).await;
    ledger.did("", &["customer", "acme", "cus_acme", "--billed-until", "2020-01-01T00:00:00Z"]).await;
    taken_back(&ledger, "final").await;
    let told = sent(&ledger.did("", &["deliver", "--to", "-"]).await);
    assert_eq!((told.len(), told[0].1.as_str()), (1, "-0.000000000001"));
}

#[tokio::test]
async fn an_amount_that_the_meters_unit_does_not_divide_is_never_rounded_and_holds_nobody_up() {
    let ledger = with_lines(&[("a", "acme", 5, "0.0000000001"), ("b", "acme", 6, "1")]).await;
    let output = ledger.run("", &["deliver", "--to", "-", "--meter-scale", "9"]).await;
    assert_eq!((output.code(), sent(&output.stdout)), (Some(1), vec![("b".into(), "1000000000".into())]));
    assert!(output.stderr.contains("a person has to see to a:"), "{}", output.stderr);
    ledger.sql("INSERT INTO consumer DEFAULT VALUES").await;
    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("a: refused (line a of 0.0000000001 USD"), "{status}");
    ledger.did("", &["settle", "a", "missing"]).await;
    assert_eq!(sent(&ledger.did("", &["deliver", "--to", "-"]).await), [("a".into(), "100".into())]);
}

#[tokio::test]
async fn a_request_that_the_api_refuses_waits_for_a_person_and_the_others_go_on() {
    let lines = [
        ("a", "acme", 5, "1"),
        ("b", "globex", 5, "2"),
        ("old", "acme", 900, "3"),
        ("older", "globex", 900, "4"),
    ];
    let ledger = with_lines(&lines).await;
    ledger.sql("INSERT INTO consumer DEFAULT VALUES").await;
    ledger.did("", &["customer", "globex", "cus_globex"]).await;
    let refusing = ["deliver", "--to", "-", "--refuse", "cus_acme"];
    let output = ledger.run("", &refusing).await;
    let values: Vec<String> = sent(&output.stdout).into_iter().map(|(_, value)| value).collect();
    assert_eq!((output.code(), values), (Some(1), vec!["2000000000000".to_string(), "4".to_string()]));
    let output = ledger.run("", &refusing).await;
    assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "it is not tried again");

    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("a: refused (--refuse); put that right"), "{status}");
    for id in ledger.texts("SELECT id FROM delivery WHERE refused IS NOT NULL").await {
        assert!(status.contains(&format!("`invoice_ledger settle {id} missing`")), "{status}");
        ledger.did("", &["settle", &id, "missing"]).await;
    }
    let told = sent(&ledger.did("", &["deliver", "--to", "-"]).await);
    assert_eq!((told[0].1.as_str(), told[1].1.as_str(), told.len()), ("1000000000000", "3", 2));
}

#[tokio::test]
async fn a_line_without_a_currency_is_held_back() {
    let ledger = with_lines(&[("a", "acme", 5, "1"), ("b", "acme", 900, "2"), ("c", "acme", 5, "3")]).await;
    ledger.sql("INSERT INTO consumer DEFAULT VALUES").await;
    ledger.sql("UPDATE ledger_line SET currency = '' WHERE line_id IN ('a', 'b')").await;
    let told = sent(&ledger.did("", &["deliver", "--to", "-"]).await);
    assert_eq!(told, [("c".into(), "3000000000000".into())]);
    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("acme: 3 of no currency is held back"), "{status}");
    taken_back(&ledger, "a").await;
    taken_back(&ledger, "b").await;
    assert!(!ledger.did("", &["status"]).await.contains("no currency"));
}

#[tokio::test]
async fn what_takes_a_line_back_is_told_when_that_line_is_known_to_have_arrived() {
    let ledger = with_lines(&[("a", "acme", 5, "5"), ("b", "acme", 6, "1")]).await;
    taken_back(&ledger, "a").await;
    let ids = |text: &str| -> Vec<String> { sent(text).into_iter().map(|(id, _)| id).collect() };
    for (what, tried) in [("--lose", "a"), ("--refuse", "")] {
        let output = ledger.run("", &["deliver", "--to", "-", what, r#""id":"a""#]).await;
        let expected: Vec<&str> = [tried, "b"].into_iter().filter(|id| !id.is_empty()).collect();
        let expected = if what == "--lose" { expected } else { vec![] };
        assert_eq!(
            (output.code(), ids(&output.stdout)),
            (Some(1), expected.iter().map(ToString::to_string).collect())
        );
    }
    ledger.did("", &["settle", "a", "missing"]).await;
    assert_eq!(ids(&ledger.did("", &["deliver", "--to", "-"]).await), ["a", "a-2"]);
}

/// Delivers to a file through a proxy that kills it there.
async fn killed(ledger: &Consumer, file: &str, spot: Spot) {
    let proxy = Proxy::to(&ledger.db.url).await;
    let mut command = ledger.command(&proxy.url(&ledger.db.url), &["deliver", "--to", file]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    proxy.strike(spot, Deed::Kill(child.id()));
    let status = ended(&mut child, Duration::from_secs(30)).await.expect("it ends");
    assert_eq!((status.code(), proxy.has_struck()), (None, true), "{spot:?}");
}

#[tokio::test]
async fn killed_between_claim_and_confirm_it_sends_the_same_again_and_each_line_counts_once() {
    let names: Vec<String> = (0..250).map(|n| format!("line-{n}")).collect();
    let lines: Vec<_> =
        names.iter().enumerate().map(|(n, id)| (id.as_str(), "acme", 1 + n as i64 * 5, "0.01")).collect();
    let ledger = with_lines(&lines).await;
    let dir = temp_dir();
    let file = dir.path().join("outbox").to_str().unwrap().to_string();
    let at = |statement, nth, side| Spot { statement, nth, side };
    for spot in [
        at("UPDATE ledger_line SET delivery_id", 1, Side::Before),
        at("COMMIT", 1, Side::Before),
        at("COMMIT", 1, Side::After),
        at("UPDATE delivery SET sent_at", 1, Side::Before),
        at("UPDATE delivery SET sent_at", 1, Side::During),
        at("UPDATE delivery SET sent_at", 1, Side::Before),
        at("WITH taken AS", 1, Side::During),
    ] {
        killed(&ledger, &file, spot).await;
    }
    ledger.did("", &["deliver", "--to", &file]).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let bodies: BTreeMap<String, &str> =
        sent(&text).into_iter().map(|(id, _)| id).zip(text.lines()).collect();
    assert!(text.lines().count() > bodies.len(), "nothing was sent twice");
    // The API's side: of the same identifier the first counts, and the others say the same.
    assert!(text.lines().all(|line| bodies[&sent(line)[0].0] == line));
    let meter = bodies.values().filter(|body| body.contains("payload")).count();
    assert_eq!(meter as i64, ledger.number("SELECT count(*) FROM delivery WHERE channel = 'meter'").await);
    assert_eq!(ledger.number("SELECT count(*) FROM delivery WHERE channel = 'invoice_item'").await, 1);
    assert_eq!(bodies.len(), meter + 1);
    let untold =
        "SELECT count(*) FROM ledger_line LEFT JOIN delivery ON id = delivery_id WHERE sent_at IS NULL";
    assert_eq!(ledger.number(untold).await, 0);
}

#[tokio::test]
async fn what_nobody_knows_after_a_day_is_left_to_a_person_and_never_sent_again() {
    let ledger = with_lines(&[("a", "acme", 5, "1"), ("b", "acme", 6, "2")]).await;
    let dir = temp_dir();
    let file = dir.path().join("outbox").to_str().unwrap().to_string();
    killed(&ledger, &file, Spot { statement: "UPDATE delivery SET sent_at", nth: 1, side: Side::Before })
        .await;
    ledger.sql("UPDATE delivery SET claimed_at = now() - interval '22 hours' WHERE id = 'b'").await;
    ledger.sql("UPDATE delivery SET claimed_at = now() - interval '23 hours' WHERE id = 'a'").await;
    std::fs::remove_file(&file).unwrap();
    for _ in 0..2 {
        let refused = ledger.refused("", &["deliver", "--to", &file]).await;
        assert!(refused.contains("a person has to see to a:"), "{refused}");
    }
    assert_eq!(sent(&std::fs::read_to_string(&file).unwrap()), [("b".into(), "2000000000000".into())]);

    let refused = ledger.refused("", &["settle", "b", "missing"]).await;
    assert!(refused.contains("b is no delivery that is left to a person"), "{refused}");
    ledger.did("", &["settle", "a", "missing"]).await;
    assert_eq!(
        sent(&ledger.did("", &["deliver", "--to", "-"]).await),
        [("a".into(), "1000000000000".into())]
    );
    ledger
        .sql("UPDATE delivery SET claimed_at = now() - interval '2 days', sent_at = NULL WHERE id = 'a'")
        .await;
    ledger.did("", &["settle", "a", "arrived"]).await;
    assert_eq!(ledger.did("", &["deliver", "--to", "-"]).await, "");
}

#[tokio::test]
async fn one_process_delivers_at_a_time() {
    let ledger = with_lines(&[("a", "acme", 5, "1")]).await;
    let mut other = ledger.pool().acquire().await.unwrap();
    let lock = "SELECT pg_advisory_lock(7305804385371857485)";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let refused = ledger.refused("", &["deliver", "--to", "-"]).await;
    assert_eq!(refused, "another process delivers from this ledger");
    sqlx::query("SELECT pg_advisory_unlock(7305804385371857485)").execute(&mut *other).await.unwrap();
    assert_eq!(sent(&ledger.did("", &["deliver", "--to", "-"]).await).len(), 1);
}

#[tokio::test]
async fn a_meter_event_without_an_answer_is_not_sent_into_an_hour_that_is_final_by_now() {
    let ledger = with_lines(&[("a", "acme", 5, "1"), ("b", "acme", 900, "2")]).await;
    ledger.sql("INSERT INTO consumer DEFAULT VALUES").await;
    let dir = temp_dir();
    let file = dir.path().join("outbox").to_str().unwrap().to_string();
    killed(&ledger, &file, Spot { statement: "COMMIT", nth: 1, side: Side::After }).await;
    ledger.sql("UPDATE customer SET billed_until = now()").await;
    let refused = ledger.refused("", &["deliver", "--to", &file]).await;
    assert!(refused.contains("a person has to see to a:"), "{refused}");
    let told = sent(&std::fs::read_to_string(&file).unwrap());
    assert_eq!((told.len(), told[0].1.as_str()), (1, "2"), "{told:?}");
    let status = ledger.did("", &["status"]).await;
    assert!(status.contains("a: look it up at the API"), "{status}");
    ledger.did("", &["settle", "a", "missing"]).await;
    let told = sent(&ledger.did("", &["deliver", "--to", "-"]).await);
    assert_eq!((told.len(), told[0].1.as_str()), (1, "1"));
    assert!(told[0].0.starts_with("item-"), "{told:?}");
}

#[tokio::test]
async fn nothing_is_settled_while_a_process_may_be_sending_it() {
    let ledger = with_lines(&[("a", "acme", 5, "1")]).await;
    ledger.run("", &["deliver", "--to", "-", "--refuse", "acme"]).await;
    let mut other = ledger.pool().acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7305804385371857485)").execute(&mut *other).await.unwrap();
    let refused = ledger.refused("", &["settle", "a", "missing"]).await;
    assert_eq!(refused, "another process delivers from this ledger");
}

#[tokio::test]
async fn a_line_that_was_torn_is_ended_before_the_next_one() {
    let ledger = with_lines(&[("a", "acme", 5, "1")]).await;
    let dir = temp_dir();
    let file = dir.path().join("outbox").to_str().unwrap().to_string();
    std::fs::write(&file, "{\"id\":\"a\",\"chan").unwrap();
    ledger.did("", &["deliver", "--to", &file]).await;
    ledger.did("", &["deliver", "--to", &file]).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let (torn, whole) = text.split_once('\n').unwrap();
    assert_eq!((torn, sent(whole)), ("{\"id\":\"a\",\"chan", vec![("a".into(), "1000000000000".into())]));
}

#[tokio::test]
async fn a_command_that_reads_does_not_wait_for_one_that_writes_for_long() {
    let ledger = with_lines(&[("a", "acme", 5, "1")]).await;
    let mut settling = ledger.pool().begin().await.unwrap();
    let lines = "UPDATE ledger_line SET amount = 2";
    sqlx::query(lines).execute(&mut *settling).await.unwrap();
    for command in ["status", "totals", "lines", "check"] {
        let mut child = ledger.command(&ledger.db.url, &[command]).stdout(Stdio::null()).spawn().unwrap();
        let status = ended(&mut child, Duration::from_secs(20)).await;
        kill(&mut child).await;
        assert!(status.is_some(), "{command} waits");
    }
}
