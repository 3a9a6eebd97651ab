//! Old and new builds beside each other on one database.

use rater::service::schema::{self, Incompatible, MigrationError, VERSION};

use super::{catalog, open, row, run};
use crate::harness::{database, empty_database};

/// As a later build leaves it: one more step, and a higher version.
const NEWER: &str = "INSERT INTO rater_migration (version, description, success, checksum, execution_time)
        VALUES (9001, 'later', true, '', 0);
    UPDATE rater_schema SET version = version + 1";

#[tokio::test]
async fn a_service_refuses_a_database_without_its_schema() {
    let database = empty_database().await;
    let db = open(&database.url);
    let error = schema::check(&db).await.unwrap_err();
    assert!(matches!(error, Incompatible::Older { found: 0 }), "{error}");
    assert!(error.to_string().ends_with("run `rater migrate up`"), "{error}");
    schema::up(&db).await.unwrap();
    schema::check(&db).await.unwrap();
    run(database.pool(), "UPDATE rater_schema SET version = version - 1").await;
    let error = schema::check(&db).await.unwrap_err();
    assert!(matches!(error, Incompatible::Older { found } if found == VERSION - 1), "{error}");
    run(database.pool(), "DELETE FROM rater_schema").await;
    assert!(matches!(schema::check(&db).await, Err(Incompatible::Older { found: 0 })));
}

#[tokio::test]
async fn up_of_an_old_build_leaves_a_newer_compatible_schema_as_it_is() {
    let database = database().await;
    let db = open(&database.url);
    run(database.pool(), NEWER).await;
    let before = catalog(database.pool()).await;
    assert_eq!(schema::up(&db).await.unwrap(), []);
    assert_eq!(catalog(database.pool()).await, before);
    assert_eq!(row(database.pool(), "SELECT version FROM rater_schema").await, (VERSION + 1).to_string());
    schema::check(&db).await.unwrap();
    let status = schema::status(&db).await.unwrap();
    let last = status.steps.last().unwrap();
    assert_eq!((last.version, last.applied, last.known), (9001, true, false));
}

#[tokio::test]
async fn a_service_refuses_a_schema_that_has_left_it_behind() {
    let database = database().await;
    run(database.pool(), NEWER).await;
    run(database.pool(), "UPDATE rater_schema SET compatible_from = version").await;
    let error = schema::check(&open(&database.url)).await.unwrap_err();
    assert!(
        matches!(error, Incompatible::Newer { compatible_from } if compatible_from == VERSION + 1),
        "{error}"
    );
    assert!(error.to_string().ends_with("use a newer rater"), "{error}");
}

#[tokio::test]
async fn down_of_an_old_build_leaves_a_newer_schema_alone() {
    let step = NEWER.split(';').next().unwrap();
    for newer in [NEWER, step, "UPDATE rater_schema SET version = version + 1"] {
        let database = database().await;
        run(database.pool(), newer).await;
        let before = catalog(database.pool()).await;
        let error = schema::down(&open(&database.url)).await.unwrap_err();
        assert!(matches!(error, MigrationError::Newer), "{newer}: {error:?}");
        assert_eq!(error.to_string(), "the schema was made by a newer rater; migrate it down with that one");
        assert_eq!(catalog(database.pool()).await, before);
    }
}

#[tokio::test]
async fn a_schema_of_another_build_is_not_mixed_with_ours() {
    let database = database().await;
    run(database.pool(), "UPDATE rater_migration SET checksum = 'other' WHERE version = 2").await;
    let error = schema::up(&open(&database.url)).await.unwrap_err();
    assert!(matches!(error, MigrationError::Foreign(2)), "{error:?}");
}
