//! A job shows in its command's status, in the metrics and on the page of readiness of every
//! service, while it goes on and when it failed.

use super::{SOON, UNCHECKED, audit, beside, command, fill, rows_done, slow};
use crate::rig::{BOOK, Rig, eventually, http_get};

async fn metric(rig: &Rig, name: &str) -> i64 {
    let text = http_get(rig.service.admin_address(), "/metrics").await;
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("rater_{name}{{table_job=\"audit\"}} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

async fn readyz(rig: &Rig) -> String {
    let text = http_get(rig.service.admin_address(), "/readyz").await;
    assert!(text.contains("200 OK"), "a job is no reason to be unready: {text}");
    text
}

#[tokio::test]
async fn how_far_a_job_is_shows_everywhere_while_it_goes_on() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 60_000).await;
    assert_eq!(
        (metric(&rig, "job_running").await, metric(&rig, "job_last_update_timestamp_seconds").await),
        (0, 0)
    );
    assert!(!readyz(&rig).await.contains("job "));
    slow(&rig, "1").await;
    let mut process = beside(&rig, &["audit"]);
    eventually("some of it is done", async || rows_done(&rig, "audit").await > 0).await;

    let said = command(&rig, &["audit", "status"]);
    assert_eq!(said.code(), Some(1), "it is not done");
    for word in ["running", "rows_per_second", "eta_seconds", "last_update", "60000"] {
        assert!(said.stdout.contains(word), "no {word} in {}", said.stdout);
    }
    eventually("the service has looked", async || metric(&rig, "job_rows_done").await > 0).await;
    assert_eq!((metric(&rig, "job_rows").await, metric(&rig, "job_running").await), (60_000, 1));
    // By the first batch alone it would be over at once.
    eventually("its end is in sight", async || metric(&rig, "job_eta_seconds").await > 0).await;
    assert_eq!(metric(&rig, "job_failed").await, 0);
    assert!(metric(&rig, "job_last_update_timestamp_seconds").await > 1_700_000_000);
    let page = readyz(&rig).await;
    assert!(page.contains("\njob audit: running, ") && page.contains(" of 60000 rows, "), "{page}");

    process.kill();
    eventually("it is seen to stand still", async || readyz(&rig).await.contains("\njob audit: stopped, "))
        .await;
    assert_eq!(metric(&rig, "job_running").await, 1, "it is not done");
    rig.sql("DROP TRIGGER slow ON table_job").await;
    assert_eq!(audit(&rig, &[]).0, Some(0));
    eventually("its end is seen", async || metric(&rig, "job_running").await == 0).await;
    assert!(!readyz(&rig).await.contains("job "));
    assert_eq!(metric(&rig, "job_rows_done").await, 60_000);
    process.wait(SOON).await;
}

#[tokio::test]
async fn a_failure_is_stored_and_told_as_one() {
    let rig = Rig::start(BOOK, &[]).await;
    fill(&rig, 12_000).await;
    rig.sql(&format!(
        "{UNCHECKED};
         UPDATE rated_usage SET cost = 1 WHERE window_start > '2026-06-04Z';
         CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'its disk is away' USING ERRCODE = 'XX000'; END $$;
         CREATE TRIGGER away BEFORE INSERT ON audit_total EXECUTE FUNCTION away()"
    ))
    .await;
    let failed = command(&rig, &["audit"]);
    assert_eq!((failed.code(), failed.stderr.lines().count()), (Some(1), 1), "{failed:?}");
    rig.sql("DROP TRIGGER away ON audit_total").await;
    let said = command(&rig, &["audit", "status"]);
    assert_eq!(said.code(), Some(1), "{said:?}");
    let why = "its disk is away (SQLSTATE XX000)";
    assert!(said.stdout.contains("failed") && said.stdout.contains(why), "{said:?}");
    eventually("the service tells", async || metric(&rig, "job_failed").await == 1).await;
    let page = readyz(&rig).await;
    assert!(page.contains("\njob audit: failed, 0 of 12000 rows") && page.contains(why), "{page}");
    // The same again goes on, and it is told no more.
    assert_eq!(audit(&rig, &[]).0, Some(2));
    eventually("it is told no more", async || metric(&rig, "job_failed").await == 0).await;
}
