//! Databases to play in, and cases to play, each from the seed and its number alone.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sqlx::{Connection, PgConnection};

use super::super::harness;
use super::generate;
use super::play::Player;
use super::script::Case;

/// A case as it can be made smaller, and the runner to do so with.
pub fn case(seed: u64, number: u64) -> (TestRunner, impl ValueTree<Value = Case>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tree = generate::case().new_tree(&mut runner).unwrap();
    (runner, tree)
}

/// A player with a new database, in which token counts may be missing, as in one that was
/// adopted, and text sorts by a language, not by its bytes, where the server can do so.
pub async fn player() -> (Player, harness::TestDb) {
    let db = harness::sorted_database().await;
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let sql = "ALTER TABLE billing_event ALTER prompt_tokens DROP NOT NULL,
        ALTER cached_tokens DROP NOT NULL, ALTER completion_tokens DROP NOT NULL";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    (Player::new(connection).await.unwrap(), db)
}
