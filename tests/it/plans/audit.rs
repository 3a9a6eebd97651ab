//! A batch of the audit costs the same at the end of a table as at its beginning.

use std::fs;

use super::{by_index, explaining_server, fill, length, plans};
use crate::harness::{run_in, temp_dir};
use crate::rig::BOOK;

const ROWS: &str = "-- A batch of the audit";
const NEXT_HOUR: &str = "SELECT date_trunc('hour', least(";
const RATING: &str = "-- The rating statement (S2)";

#[tokio::test]
async fn a_batch_of_the_audit_finds_its_rows_and_its_hour_by_index() {
    let server = explaining_server().await;
    let postgres = &server.postgres;
    let environment = [("RATER_DATABASE_URL", postgres.url())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(run_in(&environment, &["migrate", "up"], "").code(), Some(0));
    fill(postgres, 60_000);
    let dir = temp_dir();
    let book = dir.path().join("book.yaml");
    fs::write(&book, BOOK).unwrap();
    let since = length(postgres);
    let window = ["--since", "2026-06-01T00:00:00Z", "--until", "2026-06-02T00:00:00Z"];
    let from_events = ["audit", "--from-events", "--pricebook", book.to_str().unwrap()];
    let output = run_in(&environment, &[&from_events[..], &window].concat(), "");
    assert_eq!(output.code(), Some(0), "{output:?}");
    let output = run_in(&environment, &["audit"], "");
    assert_eq!(output.code(), Some(0), "{output:?}");

    let batches = plans(postgres, ROWS, since);
    // 1,000 rows of a day, and all of them, the last batch of which meets nothing.
    assert_eq!(batches.len(), 1 + 13);
    for plan in batches {
        assert!(by_index(&plan, "rated_usage_page_ix", "rated_usage"), "{plan}");
    }
    let hours = plans(postgres, NEXT_HOUR, since);
    assert_eq!(hours.len(), 24);
    for plan in hours {
        assert!(by_index(&plan, "billing_event_rating_instant_ix", "billing_event"), "{plan}");
        assert!(!super::whole(&plan, "rated_usage"), "{plan}");
    }
    let rated = plans(postgres, RATING, since);
    assert_eq!(rated.len(), 24);
    for plan in rated {
        assert!(by_index(&plan, "billing_event_rating_instant_ix", "billing_event"), "{plan}");
        assert!(by_index(&plan, "rated_usage_window_start_ix", "rated_usage"), "{plan}");
    }
}
