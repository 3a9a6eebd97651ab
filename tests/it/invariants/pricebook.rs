//! R11: no free fine-tune, refused where a pricebook comes in.

use std::fs;

use rater::proto::{Severity, ValidatePricebookRequest};

use crate::harness::{database, event, run_in, temp_dir};
use crate::rig::{BOOK, Rig, backfill};

/// Pricebooks that would bill at nothing what has a price.
const REFUSED: [(&str, &str); 8] = [
    ("derived from a fine-tune", "fine_tunes: {'ft:a': {rate: R}, 'ft:b': {derived_from: 'ft:a'}}"),
    ("derived from a derived one", "fine_tunes: {'ft:a': {derived_from: m}, 'ft:b': {derived_from: 'ft:a'}}"),
    ("derived from nothing", "fine_tunes: {'ft:a': {derived_from: other}}"),
    ("a factor of zero", "fine_tune_premium: {policy: multiplier, factor: '0'}"),
    ("a factor that rounds to zero", "fine_tune_premium: {policy: multiplier, factor: '0.0000001'}"),
    ("a rate that rounds to zero", "rate_scale: 2"),
    ("a rate that per makes zero", "per: 1000000\nrate_scale: 6"),
    (
        "a dated premium that makes zero",
        "fine_tune_premium: [{policy: multiplier, factor: '2'}, \
         {effective_from: 2026-07-01T00:00:00Z, policy: multiplier, factor: '0.0000001'}]",
    ),
];

fn book(rest: &str) -> String {
    let rate = "{prompt: '0.000003', cached: '0.0000003', completion: '0.000015'}";
    format!("version: 1\nbase_models: {{m: {rate}}}\n{}\n", rest.replace("rate: R", &format!("rate: {rate}")))
}

#[tokio::test]
async fn r11_validate_pricebook_refuses_every_way_to_a_free_fine_tune() {
    let rig = Rig::start(BOOK, &[]).await;
    let ask = async |yaml: String| {
        let request = ValidatePricebookRequest { pricebook_yaml: yaml, against: None };
        rig.client().validate_pricebook(request).await.unwrap().into_inner()
    };
    for (what, rest) in REFUSED {
        let answer = ask(book(rest)).await;
        assert!(!answer.valid && answer.digest.is_empty(), "{what}: {answer:?}");
        let error = answer.diagnostics.iter().find(|d| d.severity() == Severity::Error).expect(what);
        assert!(error.line > 0 && !error.path.is_empty() && !error.code.is_empty(), "{what}: {error:?}");
    }
    assert!(ask(book("fine_tunes: {'ft:a': {derived_from: m}}")).await.valid);
    let free = "{version: 1, base_models: {m: {prompt: '0', cached: '0', completion: '0'}}}";
    assert!(ask(free.into()).await.valid, "a literal 0 is meant");
}

#[tokio::test]
async fn r11_serve_refuses_to_start_on_each_of_them() {
    let db = database().await;
    let dir = temp_dir();
    for (what, rest) in REFUSED {
        let path = dir.path().join("book.yaml");
        fs::write(&path, book(rest)).unwrap();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook"];
        let arguments = [&arguments[..], &[path.to_str().unwrap()]].concat();
        let output = run_in(&[("RATER_DATABASE_URL", &db.url)], &arguments, "");
        assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{what}");
        assert!(output.stderr.contains(&format!("{}:", path.display())), "{what}: {}", output.stderr);
        assert!(!output.stderr.contains("listening"), "{what}");
    }
}

#[tokio::test]
async fn r11_a_refused_new_file_leaves_the_old_pricebook_in_force() {
    let rig = Rig::with_events([event("a").model("ft:x").base("acme/large")]).await;
    fs::write(rig.book_path(), book(REFUSED[3].1)).unwrap();
    rig.logged(|line| line["level"] == "ERROR" && line["message"].as_str().unwrap_or("").contains("refused"))
        .await;
    assert_eq!(rig.metric("rater_pricebook_refused").await.as_deref(), Some("1"));
    assert_eq!(rig.rated(backfill(10, 11)).await.total_cost, "0.000675");
}

#[tokio::test]
async fn r11_a_literal_zero_bills_at_nothing_and_its_fine_tune_follows() {
    let book = "{version: 1, base_models: {'acme/large': {prompt: '0', cached: '0', completion: '0'}},
        fine_tune_premium: {policy: multiplier, factor: '2'}}";
    let rig = Rig::start(book, &[]).await;
    rig.insert([event("a"), event("b").model("ft:x").base("acme/large")]).await;
    let result = rig.rated(backfill(10, 11)).await;
    assert_eq!((result.rated_events, result.rollups, result.total_cost.as_str()), (2, 2, "0"));
}
