//! Databases to play in, and cases to play, each from the seed and its number alone.

use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rater::service::schema;
use rater::store::{Db, DbOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

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
    let db = harness::empty_database().await;
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&mut connection).await.unwrap();
    let sorted = format!("{name}_sorted");
    let sql = format!(
        "CREATE DATABASE {sorted} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' ENCODING 'UTF8'"
    );
    let url = match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await {
        Ok(_) => db.url.replace(&format!("/{name}?"), &format!("/{sorted}?")),
        Err(error) => {
            harness::skipped("text that does not sort by its bytes", &error.to_string());
            db.url.clone()
        }
    };
    connection.close().await.unwrap();
    let options =
        DbOptions { url: url.clone(), max_connections: 2, acquire_timeout: Duration::from_secs(30) };
    schema::up(&Db::new(&options).unwrap()).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = "ALTER TABLE billing_event ALTER prompt_tokens DROP NOT NULL,
        ALTER cached_tokens DROP NOT NULL, ALTER completion_tokens DROP NOT NULL";
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    (Player::new(connection).await.unwrap(), db)
}
