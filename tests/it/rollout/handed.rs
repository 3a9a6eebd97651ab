//! A run that one build began and the other ends.

use nix::sys::signal::Signal;
use rater::proto::RateWindowRequest;

use super::{BUILDS, SOON, Site};
use crate::stage::{rate_until_done, until, window};

const HOURS: i64 = 8;

const EMPTY: &str = "TRUNCATE billing_event, rated_usage, rated_usage_change, change_batch, rating_run,
    rating_run_chunk";
/// A chunk takes a moment, for a signal to come in between.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON rating_run_chunk FOR EACH STATEMENT EXECUTE FUNCTION slow()";
const COMMITTED: &str = "SELECT count(*) FROM rating_run_chunk";

/// Rollups that were written more than once.
const AGAIN: &str = "SELECT count(*) FROM rated_usage_change WHERE operation <> 'insert'";
/// Hours with a chunk, and chunks.
const CHUNKS: &str = "SELECT count(DISTINCT chunk_start) * 1000 + count(*) FROM rating_run_chunk";

/// Each build begins a run, and gets the signal when two of its chunks or more are committed.
async fn goes_on_elsewhere(signal: Signal) {
    let Some(site) = Site::both("a run in other hands").await else { return };
    site.stage.sql(SLOW).await;
    for begins in BUILDS {
        site.stage.sql(EMPTY).await;
        site.stage.fill("e", 0, HOURS, 25).await;
        let mut dying = site.serve(begins).await;
        let request = RateWindowRequest { request_id: "one run".into(), ..window(0, HOURS) };
        let mut client = dying.client_rating().await;
        let asked = request.clone();
        let call = tokio::spawn(async move { client.rate_window(asked).await });
        until("it has begun", SOON, async || site.stage.number(COMMITTED).await >= 2).await;
        dying.signal(signal);
        dying.wait(SOON).await;
        call.await.unwrap().unwrap_err();
        let committed = site.stage.number(COMMITTED).await;
        assert!((2..HOURS).contains(&committed), "{begins:?}: {committed} chunks");

        let mut goes_on = site.serve(begins.other()).await;
        goes_on.wait_for_log("a run's process is gone; going on with it", SOON).await;
        let (result, _) = rate_until_done(&goes_on, request, SOON).await;
        assert_eq!((result.events, result.rated_events), (HOURS * 25, HOURS * 25), "{begins:?}");
        let ended = "SELECT count(*) FROM rating_run WHERE state = 'succeeded'";
        until("it has ended", SOON, async || site.stage.number(ended).await == 1).await;
        assert_eq!(site.stage.number("SELECT count(*) FROM rating_run").await, 1);
        assert_eq!(site.stage.number(CHUNKS).await, HOURS * 1001, "{begins:?}: each hour in one chunk");
        assert_eq!(site.stage.number(AGAIN).await, 0, "{begins:?}: each rollup was written once");
        assert_eq!((site.stage.mismatches().await, site.stage.feed_faults().await), (0, 0), "{begins:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_process_is_killed_is_ended_by_the_other_build_with_each_rollup_written_once() {
    goes_on_elsewhere(Signal::SIGKILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_handed_over_at_a_stop_is_ended_by_the_other_build() {
    goes_on_elsewhere(Signal::SIGTERM).await;
}
