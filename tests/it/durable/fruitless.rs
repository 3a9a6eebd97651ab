//! What kills every process that tries must not go on for ever.

use rater::store::{Rules, Taken, Wanted};

use super::*;

/// Far more than anyone would want to watch.
const MANY: usize = 100;

/// Takes a run over again and again, from processes that die at once; gives how often that was.
async fn dies(db: &Db, stage: &Stage, times: usize) -> (usize, Option<Lease>) {
    let (book, mut last) = (book(stage), None);
    for time in 0..times {
        end_leases(stage).await;
        let mut taken = db.take_over(book.digest(), SOON).await.unwrap();
        match taken.pop().expect("a run without a process") {
            Taken::Resumed(lease) => last = Some(lease),
            Taken::Ended(run_id) => {
                assert_eq!(run_id, "run");
                return (time, None);
            }
        }
        assert!(taken.is_empty());
    }
    (times, last)
}

#[tokio::test]
async fn a_run_whose_process_dies_again_and_again_on_the_same_hours_is_given_up() {
    let stage = Stage::new().await;
    let db = store(&stage);
    let begun = db.begin_run(&new_run("run", 0, 4, &book(&stage))).await.unwrap();
    assert!(matches!(begun, Begun::Started(..)));
    let (takeovers, _) = dies(&db, &stage, MANY).await;
    println!("given up after {takeovers} takeovers");
    assert!((2..MANY / 2).contains(&takeovers), "{takeovers}");
    assert_eq!(record(&stage, "run").await, ended("failed", "LEASE_LOST", 4));
    assert_eq!(stage.number("SELECT count(*) FROM rating_lease").await, 0);
    assert!(db.take_over(book(&stage).digest(), SOON).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_chunk_in_between_makes_up_for_processes_that_died() {
    let stage = Stage::new().await;
    stage.fill("e", 0, 4, 5).await;
    let (db, book) = (store(&stage), book(&stage));
    let run = new_run("run", 0, 4, &book);
    db.begin_run(&run).await.unwrap();
    let (limit, _) = {
        let other = Stage::new().await;
        let db = store(&other);
        db.begin_run(&run).await.unwrap();
        dies(&db, &other, MANY).await
    };
    // The last one commits an hour: an older one first, as those side by side may.
    for (hour, left) in [(1, 4), (3, 3), (2, 1)] {
        let (_, lease) = dies(&db, &stage, limit).await;
        let lease = lease.expect("not given up");
        let window = new_run("", hour, hour + 1, &book).window;
        let rules = Rules { book: &book, trigger: Trigger::Backfill, basis: RateBasis::Pricebook };
        let mut chunk = db.begin_chunk(&lease, window, SOON).await.unwrap();
        let rated = chunk.rate(rules, Wanted::default()).await.unwrap();
        chunk.commit(&rated, Some(new_run("", 0, left, &book).window)).await.unwrap();
        assert_eq!(stage.number(AHEAD).await, 0);
    }
    // Without one it is given up.
    let (takeovers, _) = dies(&db, &stage, MANY).await;
    assert!((limit..=limit + 1).contains(&takeovers), "{takeovers}");
    assert_eq!(record(&stage, "run").await, ended("failed", "LEASE_LOST", 1));
}
