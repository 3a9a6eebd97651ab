//! Retention: old records go in small steps, and whoever still needs them is told so.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::proto::*;
use rater::store::{Claimed, Db, DbOptions, InHand, JobClaim, JobStart, JobStep, RetireStep};
use sqlx::AssertSqlSafe;
use tonic::Code;

use super::{SOON, asked, at, changes, end, fabricate, following, ids, next, open, place, refused};
use crate::harness::Service;
use crate::rig::{BOOK, Rig, backfill, eventually};
use crate::stage::Refusal;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn db(rig: &Rig) -> Db {
    let acquire_timeout = Duration::from_secs(10);
    Db::new(&DbOptions { url: rig.db.url.clone(), max_connections: 4, acquire_timeout }).unwrap()
}

/// Makes every batch up to a position two days old.
async fn age(rig: &Rig, position: i64) {
    rig.sql(&format!(
        "UPDATE change_batch SET changed_at = now() - interval '2 days' WHERE position <= {position}"
    ))
    .await;
}

async fn claim(db: &Db) -> JobClaim {
    let parameters = serde_json::json!({});
    let start = JobStart {
        job: "change_retention",
        parameters: &parameters,
        adapts: true,
        rows_all: 0,
        anew: true,
        audits: false,
    };
    let Claimed::Begun(claim) = db.claim_job(&start).await.unwrap() else { panic!("someone is at it") };
    claim
}

/// A batch of the job, as a process does it that knows so much of the last one.
async fn retire_step(db: &Db, claim: JobClaim, most: i64, in_hand: Option<InHand>) -> RetireStep {
    let mut batch = db.begin_batch(claim, DAY).await.unwrap();
    let step = batch.retire(DAY, most, in_hand).await.unwrap();
    let done = JobStep { rows: step.records, done: step.done, ..JobStep::default() };
    batch.commit(&done).await.unwrap();
    step
}

async fn retire_all(rig: &Rig, most: i64) {
    let (db, mut in_hand) = (db(rig), None);
    let claim = claim(&db).await;
    loop {
        let step = retire_step(&db, claim, most, in_hand).await;
        if step.done {
            return;
        }
        in_hand = step.in_hand;
    }
}

fn assert_expired(refusal: &Refusal) {
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::FailedPrecondition, "CURSOR_EXPIRED"));
    assert!(refusal.message.contains("take a new first copy"), "{}", refusal.message);
}

/// After each step, from each place: all that is left to tell, or a refusal; never a part of it.
#[tokio::test]
async fn between_any_two_steps_a_cursor_is_good_or_expired() {
    let rig = Rig::start(BOOK, &[]).await;
    let batches = [3, 25, 10, 1, 1, 9, 1, 20, 5, 2];
    fabricate(rig.pool(), &batches).await;
    age(&rig, 8).await;
    let client = rig.client();
    let (all, _) = changes(&client, asked("")).await;
    let mut places = Vec::new();
    for (n, size) in batches.iter().enumerate() {
        for ordinal in 0..=*size {
            places.push(((n as i64 + 1, ordinal), place(&rig, n as i64 + 1, ordinal).await));
        }
    }
    let (db, mut in_hand, mut gone, mut steps) = (db(&rig), None, 0, 0);
    let claim = claim(&db).await;
    loop {
        let mark: i64 = rig.one("SELECT retired_through FROM change_feed").await;
        let left = rig.count("rated_usage_change").await as usize;
        assert_eq!(left, all.len() - gone);
        let oldest: i64 = rig.one("SELECT min(position) FROM change_batch").await;
        assert_eq!(oldest, mark.max(1), "the batch at the mark stays");
        for ((position, ordinal), cursor) in &places {
            let whole = *ordinal == batches[*position as usize - 1];
            if *position > mark || *position == mark && whole {
                let before: i64 = batches[..*position as usize - 1].iter().sum();
                let (rest, _) = changes(&client, asked(cursor)).await;
                assert_eq!(ids(&rest), ids(&all[(before + ordinal) as usize..]), "{position} {ordinal}");
            } else {
                assert_expired(&refused(&client, asked(cursor)).await);
            }
        }
        if mark > 0 {
            assert_expired(&refused(&client, asked("")).await);
        }
        // Now and then as after a restart, which knows of nothing in hand.
        let step = retire_step(&db, claim, 10, in_hand.filter(|_| steps % 2 == 0)).await;
        if step.done {
            break;
        }
        assert!((1..=10).contains(&step.records) && step.kept == 0, "{step:?}");
        (in_hand, gone, steps) = (step.in_hand, gone + step.records as usize, steps + 1);
    }
    assert_eq!(gone, 70, "what is old, and nothing else");
    let job: (String, i64, i64) =
        sqlx::query_as("SELECT state, rows_done, rows_all FROM table_job WHERE job = 'change_retention'")
            .fetch_one(rig.pool())
            .await
            .unwrap();
    assert_eq!(job, ("succeeded".into(), 70, 70));
    assert!(steps >= 7, "{steps}");
}

#[tokio::test]
async fn a_consumer_that_has_everything_is_never_expired() {
    let rig = Rig::start(BOOK, &[]).await;
    rig.insert([at("a", 10)]).await;
    rig.rated(backfill(10, 11)).await;
    let client = rig.client();
    let cursor = end(&client).await;
    let mut stream = open(&client, following(&cursor)).await.unwrap();
    age(&rig, i64::MAX).await;
    retire_all(&rig, 1_000).await;
    assert_eq!((rig.count("rated_usage_change").await, rig.count("change_batch").await), (0, 1));
    assert_eq!(end(&client).await, cursor);
    assert_eq!(changes(&client, asked(&cursor)).await, (vec![], cursor.clone()));
    assert_expired(&refused(&client, asked("")).await);
    rig.insert([at("b", 10)]).await;
    rig.rate(backfill(10, 11)).await.unwrap();
    let told = next(&mut stream).await.unwrap().unwrap();
    let (later, _) = changes(&client, asked(&cursor)).await;
    assert_eq!((told.changes.len(), &told.changes), (1, &later));
    // Runs are another matter.
    assert_eq!((rig.count("rating_run").await, rig.count("rating_run_chunk").await), (2, 2));
}

#[tokio::test]
async fn a_stream_that_retention_overtakes_is_cut_off_and_has_no_gap() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[10_000, 10_000, 10_000]).await;
    // More than a connection holds for a client that does not read.
    rig.sql("UPDATE rated_usage_change SET model_id = repeat('m', 1000)").await;
    let order: Vec<String> = rig
        .one(
            "SELECT array_agg(batch_id || '-' || ordinal ORDER BY position, ordinal)
             FROM rated_usage_change JOIN change_batch USING (batch_id)",
        )
        .await;
    let mut stream = open(&rig.client(), asked("")).await.unwrap();
    let mut told = next(&mut stream).await.unwrap().unwrap().changes;
    age(&rig, 2).await;
    retire_all(&rig, 1_000).await;
    let (mut cursor, refusal) = (
        String::new(),
        loop {
            match next(&mut stream).await {
                Ok(Some(message)) => told.extend(message.changes),
                Ok(None) => panic!("it ends as if that had been all: {}", told.len()),
                Err(status) => break Refusal::from(status),
            }
        },
    );
    assert_expired(&refusal);
    assert!(told.len() < 20_000, "{}", told.len());
    assert_eq!(ids(&told), order[..told.len()]);
    // Nor can it sneak in again.
    cursor.push_str(&place(&rig, 2, 9_999).await);
    assert_expired(&refused(&rig.client(), asked(&cursor)).await);
}

/// By the service itself, which is killed half-way, beside consumers of another one.
#[tokio::test]
async fn retention_goes_on_where_a_killed_process_left_it() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[100, 60_000, 1_000, 50]).await;
    age(&rig, 3).await;
    let client = rig.client();
    let at_mark = place(&rig, 3, 1_000).await;
    let last: Vec<RatedUsageChange> = changes(&client, asked(&at_mark)).await.0;
    assert_eq!(last.len(), 50);
    let book = rig.book_path();
    let arguments = ["--pricebook", book.to_str().unwrap(), "--change-retention", "1d"];
    let mut kills = 0;
    while rig.count("rated_usage_change").await > 50 && kills < 3 {
        let before = rig.count("rated_usage_change").await;
        let mut service = Service::start(&rig.db.url, &arguments).await;
        eventually("some are gone", async || rig.count("rated_usage_change").await < before - 2_000).await;
        service.signal(Signal::SIGKILL);
        service.wait(SOON).await;
        kills += 1;
        assert_eq!(rig.one::<i64>("SELECT retired_through FROM change_feed").await, 2);
        assert_expired(&refused(&client, asked("")).await);
        assert_eq!(changes(&client, asked(&at_mark)).await.0, last);
    }
    assert_eq!(kills, 3);
    // Two at once share the work.
    let services =
        [Service::start(&rig.db.url, &arguments).await, Service::start(&rig.db.url, &arguments).await];
    eventually("what is old is gone", async || rig.count("rated_usage_change").await == 50).await;
    let oldest: Vec<i64> = rig.one("SELECT array_agg(position ORDER BY position) FROM change_batch").await;
    assert_eq!(oldest, [3, 4]);
    assert_eq!(changes(&client, asked(&at_mark)).await.0, last);
    let logged = || services.iter().flat_map(Service::logs).map(|line| line.to_string()).collect::<Vec<_>>();
    let done = "change records past their retention are retired";
    eventually("it is logged", async || logged().iter().any(|line| line.contains(done))).await;
    assert!(!logged().iter().any(|line| line.contains("\"WARN\"")), "{:?}", logged());
}

#[tokio::test]
async fn without_the_option_everything_is_kept_and_a_senseless_one_is_refused() {
    let rig = Rig::start(BOOK, &[]).await;
    fabricate(rig.pool(), &[5]).await;
    age(&rig, 1).await;
    let sql = "UPDATE change_batch SET changed_at = now() - interval '50 years'";
    sqlx::query(AssertSqlSafe(sql.to_string())).execute(rig.pool()).await.unwrap();
    assert_eq!(changes(&rig.client(), asked("")).await.0.len(), 5);
    let book = rig.book_path();
    for wrong in ["0s", "59s", "36501d", "1w", "30"] {
        let arguments = [
            "serve",
            "--pricebook",
            book.to_str().unwrap(),
            "--change-retention",
            wrong,
            "--database-url",
            &rig.db.url,
        ];
        let output = crate::harness::run("", &arguments);
        assert_ne!(output.code(), Some(0), "{wrong}");
        assert!(output.stderr.contains("--change-retention"), "{}", output.stderr);
    }
}
