//! What a build does with a schema that is not its own, and what one build may ask of what the other
//! has made.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::proto::*;
use tonic::Code;

use super::{BUILDS, Build, SOON, Site};
use crate::harness::Process;
use crate::rig::http_get;
use crate::stage::{Refusal, event, rate, record, until, window};

/// What a build that can't start says.
async fn refusal(site: &Site, build: Build) -> String {
    let mut process = Process::spawn(site.serving(build));
    assert_eq!(process.wait(SOON).await.code(), Some(1), "{:?}", process.logs());
    until("it says why", SOON, async || !process.logs().is_empty()).await;
    format!("{:?}", process.logs())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_build_waits_for_its_schema_and_the_old_one_works_on_over_it() {
    let Some(site) = Site::old("the order of a rollout").await else { return };
    let said = refusal(&site, Build::New).await;
    assert!(said.contains("run `rater migrate up`"), "{said}");
    let old = site.serve(Build::Old).await;
    record(&old, &[event("before", 0)]).await.unwrap();
    site.did(Build::New, &["migrate", "up"]);
    site.did(Build::New, &["migrate", "up"]);
    // What it holds of the schema it knows, and looks at it again every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(http_get(old.admin_address(), "/readyz").await.starts_with("HTTP/1.1 200"));
    record(&old, &[event("after", 0)]).await.unwrap();
    assert_eq!(rate(&old, window(0, 1)).await.unwrap().rated_events, 2);
    // Nothing to do for the old one, and nothing that it may take away.
    let said = site.did(Build::Old, &["migrate", "up"]);
    let status = site.did(Build::Old, &["migrate", "status"]);
    let (code, down) = site.run(Build::Old, &["migrate", "down"]);
    assert_eq!(code, Some(1), "{said} {status} {down}");
    assert!(down.contains("was made by a newer rater"), "{down}");
    let new = site.serve(Build::New).await;
    assert_eq!(rate(&new, window(0, 1)).await.unwrap().unchanged_rollups, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_that_has_left_a_build_behind_is_refused_by_name_and_unready_where_it_serves() {
    let Some(site) = Site::both("a schema that is not compatible").await else { return };
    for build in BUILDS {
        let service = site.serve(build).await;
        until("it is ready", SOON, async || {
            http_get(service.admin_address(), "/readyz").await.starts_with("HTTP/1.1 200")
        })
        .await;
        site.stage.sql("UPDATE rater_schema SET version = version + 1, compatible_from = version + 1").await;
        until("it says so", SOON, async || {
            let page = http_get(service.admin_address(), "/readyz").await;
            page.starts_with("HTTP/1.1 503") && page.contains("use a newer rater")
        })
        .await;
        let said = refusal(&site, build).await;
        assert!(said.contains("the schema works with rater from schema version"), "{said}");
        assert!(said.contains("use a newer rater"), "{said}");
        site.stage.sql("UPDATE rater_schema SET version = version - 1, compatible_from = 1").await;
    }
}

/// All pages of the table, each asked of the build that did not give the one before.
async fn pages(clients: &mut [super::load::Rating; 2], first: usize) -> Vec<RatedUsage> {
    let (mut rows, mut at) = (Vec::new(), first);
    let mut request = GetRatedUsageRequest { page_size: 3, ..Default::default() };
    loop {
        let page = clients[at].get_rated_usage(request.clone()).await.unwrap().into_inner();
        rows.extend(page.rated_usage);
        if page.next_page_token.is_empty() {
            return rows;
        }
        request.page_token = page.next_page_token;
        at = 1 - at;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_cursors_request_ids_and_runs_of_one_build_are_good_for_the_other() {
    let Some(site) = Site::both("tokens of another build").await else { return };
    site.stage.fill("e", 0, 4, 30).await;
    let services = [site.serve(Build::Old).await, site.serve(Build::New).await];
    let mut clients = [services[0].client_rating().await, services[1].client_rating().await];
    for (asked, other) in [(0, 1), (1, 0)] {
        let from = asked as i64 * 2;
        let request = RateWindowRequest { request_id: format!("{asked}"), ..window(from, from + 2) };
        let run = clients[asked].rate_window(request.clone()).await.unwrap().into_inner();
        let again = clients[other].rate_window(request.clone()).await.unwrap().into_inner();
        assert_eq!(run, again, "the other build finds the run and its result");
        let wider = RateWindowRequest { until: window(0, from + 3).until, ..request };
        let refused = Refusal::from(clients[other].rate_window(wider).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::AlreadyExists, "REQUEST_ID_REUSED"));
        let asked_for = GetRunRequest { run_id: run.run_id.clone() };
        let told = [clients[0].get_run(asked_for.clone()).await, clients[1].get_run(asked_for).await];
        let [old, new] = told.map(|told| told.unwrap().into_inner());
        assert_eq!(old, new, "both tell the run alike");
    }
    let rows = pages(&mut clients, 0).await;
    assert_eq!(rows.len() as i64, site.stage.number("SELECT count(*) FROM rated_usage").await);
    assert_eq!(pages(&mut clients, 1).await, rows);

    // A plan of one is carried out by the other.
    for (asked, other, at) in [(0, 1, 5), (1, 0, 6)] {
        site.stage.fill("late", at, at + 1, 10).await;
        let dry = RateWindowRequest { dry_run: true, ..window(at, at + 1) };
        let plan = clients[asked].rate_window(dry).await.unwrap().into_inner().result.unwrap().plan_hash;
        let planned = RateWindowRequest { expected_plan_hash: plan, ..window(at, at + 1) };
        assert!(rate(&services[other], planned).await.unwrap().inserted_rollups > 0);
    }
    site.agree([&services[0], &services[1]], 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_build_is_drained_and_comes_back_without_the_new_ones_leave() {
    let Some(site) = Site::both("the way back").await else { return };
    site.stage.fill("e", 0, 3, 20).await;
    let mut new = site.serve(Build::New).await;
    rate(&new, window(0, 3)).await.unwrap();
    new.signal(Signal::SIGTERM);
    assert_eq!(new.wait(SOON).await.code(), Some(0));
    let old = site.serve(Build::Old).await;
    site.stage.fill("late", 0, 3, 5).await;
    assert!(rate(&old, window(0, 3)).await.unwrap().updated_rollups > 0);
    let new = site.serve(Build::New).await;
    site.agree([&old, &new], 3).await;
}
