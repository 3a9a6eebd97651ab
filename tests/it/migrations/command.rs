//! `rater migrate`, through its own options.

use std::process::ExitCode;

use clap::Parser;
use rater::cli::migrate::Migrate;

use super::{catalog, run};
use crate::harness::empty_database;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    migrate: Migrate,
}

fn migrate(action: &str, url: &str) -> Migrate {
    Cli::try_parse_from(["migrate", action, "--database-url", url]).unwrap().migrate
}

#[tokio::test]
async fn it_prints_a_line_a_step_and_the_version() {
    let database = empty_database().await;
    let report = async |action: &str| migrate(action, &database.url).report().await;
    let status = report("status").await.unwrap();
    let lines: Vec<&str> = status.lines().collect();
    assert_eq!(lines[0], "0001 billing event: pending");
    assert_eq!(lines.last(), Some(&"no schema version yet; this rater's is version 5"));
    assert_eq!(catalog(database.pool()).await, [] as [&str; 0], "status changes nothing");

    let up = report("up").await.unwrap();
    assert_eq!(up.lines().count(), lines.len());
    assert!(up.starts_with("0001 billing event: applied\n0002 rated usage: applied\n"), "{up}");
    assert!(up.ends_with("\nschema version 5, compatible from 1\n"), "{up}");
    assert_eq!(report("up").await.unwrap(), "nothing to do: schema version 5, compatible from 1\n");

    let status = report("status").await.unwrap();
    assert!(status.starts_with("0001 billing event: applied\n"), "{status}");
    assert!(
        status.ends_with("\nschema version 5, compatible from 1; this rater's is version 5\n"),
        "{status}"
    );

    let down = report("down").await.unwrap();
    assert!(down.ends_with("\n0001 billing event: taken back\nno schema of rater's any more; billing_event and rated_usage stay\n"), "{down}");
    assert_eq!(report("down").await.unwrap(), "nothing to do: no schema of rater's\n");
}

#[tokio::test]
async fn it_says_in_one_line_why_it_could_not_and_exits_with_1() {
    let database = empty_database().await;
    assert_eq!(migrate("up", &database.url).run().await, ExitCode::SUCCESS);
    run(database.pool(), "UPDATE rater_schema SET version = 9, compatible_from = 9").await;
    let line = migrate("up", &database.url).report().await.unwrap_err();
    assert!(line.ends_with("from schema version 9 on and this one has 5; use a newer rater"), "{line}");
    assert_eq!(migrate("up", &database.url).run().await, ExitCode::FAILURE);
    assert_eq!(migrate("down", &database.url).run().await, ExitCode::FAILURE);
    assert_eq!(migrate("status", &database.url).run().await, ExitCode::SUCCESS);

    for url in ["postgres://rater:geheim@127.0.0.1:1/rater", "postgres://rater:geheim@:x/rater", "geheim"] {
        for action in ["up", "down", "status"] {
            let line = migrate(action, url).report().await.unwrap_err();
            assert!(!line.contains("geheim") && !line.contains('\n') && line.contains("database"), "{line}");
            assert_eq!(migrate(action, url).run().await, ExitCode::FAILURE);
        }
    }
}
