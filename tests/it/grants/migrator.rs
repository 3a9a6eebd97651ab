//! The migrator owns the schema, and is nobody else.

use super::{GRANTS, Ground};
use crate::stage::{event, record};

#[tokio::test]
async fn a_migrator_that_is_no_superuser_takes_the_schema_up_and_down_and_up_again() {
    let ground = Ground::granted().await;
    let status = ground.migrate("deploy", "status");
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(!status.stdout.contains("pending"), "{status:?}");
    for way in ["down", "up", "up"] {
        let output = ground.migrate("deploy", way);
        assert_eq!(output.code(), Some(0), "{way}: {output:?}");
    }
    let owners = "SELECT string_agg(DISTINCT pg_get_userbyid(relowner), ' ') FROM pg_class
        WHERE relnamespace = 'metering'::regnamespace";
    let owners: String = sqlx::query_scalar(owners).fetch_one(&ground.stage.pool).await.unwrap();
    assert_eq!(owners, "rater_migrator");
    // New tables want their grants again; whatever else is granted twice is the same.
    ground.grant();
    ground.grant();
    let ingest = ground.stage.service_over(&ground.url("ingest"), &[]).await;
    assert_eq!(record(&ingest, &[event("e-1", 0)]).await.unwrap().stored, 1);
}

#[tokio::test]
async fn an_owner_of_the_tables_grants_as_well_as_a_superuser_once_there_are_roles() {
    let ground = Ground::granted().await;
    ground.stage.sql("REVOKE ALL ON ALL TABLES IN SCHEMA metering FROM rater_reader, rater_ingest").await;
    let file = std::fs::read_to_string(GRANTS).unwrap();
    let error = ground.sql_as("reading", "SELECT count(*) FROM rated_usage").unwrap_err();
    assert!(error.contains("permission denied"), "{error}");
    // All but the membership, which is not the owner's to give, and stands.
    let file = file.replace("GRANT rater_reader TO rater_rating;", "");
    ground.sql_as("deploy", &file).unwrap();
    assert_eq!(ground.sql_as("reading", "SELECT count(*) FROM rated_usage").unwrap(), "0");
}

#[tokio::test]
async fn tables_of_another_owner_are_adopted_by_a_member_of_that_role() {
    let ground = Ground::bare().await;
    ground
        .stage
        .sql(
            "CREATE ROLE app NOLOGIN; CREATE TABLE billing_event (request_id text PRIMARY KEY);
             ALTER TABLE billing_event OWNER TO app",
        )
        .await;
    let refused = ground.migrate("deploy", "up");
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("permission denied for table billing_event"), "{refused:?}");
    ground.stage.sql("GRANT app TO rater_migrator").await;
    let adopted = ground.migrate("deploy", "up");
    assert_eq!(adopted.code(), Some(0), "{adopted:?}");
}

#[tokio::test]
async fn nobody_else_migrates_and_none_migrates_without_its_grants() {
    let ground = Ground::granted().await;
    let before = ground.everything().await;
    for user in ["reading", "rating", "ingest"] {
        for way in ["up", "down"] {
            let output = ground.migrate(user, way);
            assert_eq!(output.code(), Some(1), "{user} {way}: {output:?}");
            assert!(output.stderr.contains("permission denied"), "{user} {way}: {output:?}");
        }
    }
    assert_eq!(ground.everything().await, before);
    assert_eq!(ground.migrate("deploy", "down").code(), Some(0));
    for privilege in ["CREATE", "USAGE"] {
        ground.stage.sql(&format!("REVOKE {privilege} ON SCHEMA metering FROM rater_migrator")).await;
        let output = ground.migrate("deploy", "up");
        assert_eq!(output.code(), Some(1), "without {privilege}: {output:?}");
        ground.stage.sql(&format!("GRANT {privilege} ON SCHEMA metering TO rater_migrator")).await;
    }
    assert_eq!(ground.migrate("deploy", "up").code(), Some(0));
}
