//! The rating statement, held against the oracle in `domain::rating`: thousands of small random
//! histories (events come, change and vanish; pricebooks change; rows come from elsewhere), and
//! after every run each row, count, anomaly and change record must be the oracle's, and the
//! same run again must write nothing (R6).
//!
//! A failure prints the smallest case found that still fails, and how to repeat it.
//! `RATER_SOAK=1` plays many more cases, from a new seed every time.

mod books;
mod check;
mod coverage;
mod elsewhere;
mod generate;
mod play;
mod script;
mod setup;
mod statement;
mod table;

use std::cell::RefCell;
use std::io::Write;
use std::time::{Instant, SystemTime};

use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestError};
use tokio::runtime::Runtime;

use super::harness;
use coverage::Coverage;
use script::{Case, EventSpec, Mode};
use table::Tables;

const SEED: u64 = 20_260_601;
const CASES: u64 = 400;
const SOAK_CASES: u64 = 3_000;
/// Each plays its share of the cases in a database of its own.
const PLAYERS: u64 = 2;

#[test]
fn every_run_does_what_the_oracle_says() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let cases = match number("RATER_CASE") {
        Some(one) => one..one + 1,
        None => 0..if harness::soak() { SOAK_CASES } else { CASES },
    };
    let fresh = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("RATER_SEED").unwrap_or(if harness::soak() { fresh } else { SEED });
    let begun = Instant::now();
    let players: Vec<_> = (0..PLAYERS)
        .map(|player| {
            let cases: Vec<u64> = cases.clone().filter(|case| case % PLAYERS == player).collect();
            std::thread::spawn(move || play_cases(seed, &cases))
        })
        .collect();
    let (mut coverage, mut runs) = (Coverage::default(), 0);
    for player in players {
        let (covered, played) = player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        coverage.join(covered);
        runs += played;
    }
    let many = cases.end - cases.start;
    let told = format!("{many} cases, {runs} runs, seed {seed}, {:?}\n{coverage}", begun.elapsed());
    match harness::soak() {
        // Past the test runner's capture: whoever waited this long wants to see it.
        true => drop(std::io::stderr().write_all(told.as_bytes())),
        false => println!("{told}"),
    }
    let missing = coverage.missing(if many >= CASES { 3 } else { 0 });
    assert!(missing.is_empty(), "these hardly occurred: {missing:#?}");
}

fn play_cases(seed: u64, cases: &[u64]) -> (Coverage, u64) {
    if cases.is_empty() {
        return (Coverage::default(), 0);
    }
    let runtime = runtime();
    let (player, _db) = runtime.block_on(setup::player());
    let player = RefCell::new(player);
    for case in cases {
        let (mut runner, tree) = setup::case(seed, *case);
        let steps = tree.current().steps.len();
        let played = runner.run_one(tree, |case| {
            let played = runtime.block_on(player.borrow_mut().play(&case));
            played.map(drop).map_err(TestCaseError::fail)
        });
        if let Err(TestError::Fail(reason, smallest)) = played {
            panic!(
                "{reason}\n\nin the smallest case that fails: {smallest:#?}\n\nfound in a case of {steps} \
                 steps; to repeat it: RATER_SEED={seed} RATER_CASE={case}",
            );
        }
    }
    let player = player.into_inner();
    (player.coverage, player.runs)
}

/// The same cases in three databases, in chunks of 1, 5 and 24 hours.
#[test]
fn the_tables_do_not_depend_on_the_chunks() {
    const CASES: u64 = 16;
    let play = |hours: u32| {
        std::thread::spawn(move || {
            let runtime = runtime();
            let (mut player, _db) = runtime.block_on(setup::player());
            let played = (0..CASES).map(|number| {
                let mut case = setup::case(SEED + 1, number).1.current();
                for step in &mut case.steps {
                    step.run.chunk_hours = hours;
                }
                without_versions(runtime.block_on(player.play(&case)).unwrap())
            });
            played.collect::<Vec<Tables>>()
        })
    };
    let played: Vec<_> = [1, 5, 24].map(play).into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(played[0].iter().map(|tables| tables.rollups.len()).sum::<usize>() > 30);
    assert_eq!(played[0], played[2]);
    assert_eq!(played[1], played[2]);
}

/// The rule for ids, by values that another program computed.
#[test]
fn the_id_of_a_rollup_stays_the_same_for_ever() {
    let event = |auth_id, resource_id| EventSpec {
        auth_id: Some(auth_id),
        resource_id: Some(resource_id),
        model: Some("acme/large"),
        base_model: None,
        tokens: [Some(1), Some(0), Some(1)],
        hour: 10,
        micros: 1,
        untimed: false,
    };
    let mut case: Case = setup::case(SEED, 0).1.current();
    case.books = vec![books::plain()];
    case.steps.truncate(1);
    let step = &mut case.steps[0];
    step.add = vec![event("a", "r"), event("日本語", "1:b|r")];
    step.adopt.clear();
    (step.run.book, step.run.mode, step.run.from, step.run.hours) = (0, Mode::Routine, 10, 1);
    let runtime = runtime();
    let (mut player, _db) = runtime.block_on(setup::player());
    let tables = runtime.block_on(player.play(&case)).unwrap();
    let ids: Vec<&str> = tables.rollups.values().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["ff30da61965ac6510a7a90e278997d00", "d6f7f397059c5f5f1c9bf8183d86dbe3"]);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn without_versions(mut tables: Tables) -> Tables {
    for row in tables.rollups.values_mut() {
        (row.version, row.rated_at) = (String::new(), None);
    }
    for row in tables.anomalies.values_mut() {
        row.version = String::new();
    }
    tables
}
