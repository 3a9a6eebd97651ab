//! Least privilege: a database set up as the README says, by `docs/grants.sql` itself, and a user
//! for each duty.

mod migrator;
mod minimal;
mod refusals;
mod services;

use std::fs;
use std::process::Command;

use rater::proto::*;

use crate::harness::{Output, OwnServer, own_server, psql, run_in};
use crate::stage::{Refusal, Stage};

const GRANTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grants.sql");

/// A database of a server of its own (roles are the server's), in a schema that nobody may use
/// without a grant.
struct Ground {
    // Before the server: fields drop in order.
    stage: Stage,
    server: OwnServer,
}

impl Ground {
    /// Roles and an empty schema, as they are before the first migration.
    async fn bare() -> Ground {
        let server = own_server(&[]).await;
        psql(&server.postgres, "CREATE SCHEMA metering").unwrap();
        psql(&server.postgres, "ALTER DATABASE rater SET search_path = metering").unwrap();
        psql(&server.postgres, &first_roles()).unwrap();
        let stage = Stage::over(&server.postgres.url());
        Ground { stage, server }
    }

    /// The same, migrated, granted, and with a user for each duty.
    async fn granted() -> Ground {
        let ground = Ground::bare().await;
        assert_eq!(ground.migrate("deploy", "up").code(), Some(0));
        ground.grant();
        ground
            .stage
            .sql(
                "CREATE ROLE reading LOGIN PASSWORD 'reading' IN ROLE rater_reader;
                 CREATE ROLE rating LOGIN PASSWORD 'rating' IN ROLE rater_rating;
                 CREATE ROLE ingest LOGIN PASSWORD 'ingest' IN ROLE rater_ingest",
            )
            .await;
        ground
    }

    /// Runs the file, as its head says.
    fn grant(&self) {
        let head = fs::read_to_string(GRANTS).unwrap();
        assert!(head.contains("psql -X -v ON_ERROR_STOP=1 --single-transaction -f docs/grants.sql"));
        let output = Command::new(self.server.postgres.bin_dir().join("psql"))
            .args(["-X", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", GRANTS])
            .arg(self.server.postgres.url())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where a user finds the database.
    fn url(&self, user: &str) -> String {
        let url = self.server.postgres.url();
        let (_, place) = url.split_once('@').unwrap();
        format!("postgres://{user}:{user}@{place}")
    }

    fn migrate(&self, user: &str, way: &str) -> Output {
        run_in(&[("RATER_DATABASE_URL", &self.url(user))], &["migrate", way], "")
    }

    /// What a user gets for SQL of its own.
    fn sql_as(&self, user: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.server.postgres.bin_dir().join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url(user))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Everything that stands in the tables.
    async fn everything(&self) -> Vec<String> {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT format('SELECT %L || md5(coalesce(string_agg(t::text, '','' ORDER BY t::text), '''')) FROM %I t',
                 relname || ' ', relname)
             FROM pg_class WHERE relnamespace = 'metering'::regnamespace AND relkind = 'r' ORDER BY relname",
        )
        .fetch_all(&self.stage.pool)
        .await
        .unwrap();
        assert!(tables.len() > 10, "{tables:?}");
        let sql = tables.join(" UNION ALL ");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&self.stage.pool).await.unwrap()
    }
}

/// What the README says to begin with, for another schema.
fn first_roles() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = readme.split_once("### Least privilege").unwrap();
    let (_, sql) = section.split_once("```sql\n").unwrap();
    let (sql, rest) = sql.split_once("```").unwrap();
    assert!(rest.contains("psql -X -v ON_ERROR_STOP=1 --single-transaction -f docs/grants.sql"));
    sql.replace("SCHEMA public", "SCHEMA metering").replace('…', "deploy")
}

/// Refused for the role, and without a word about the inside.
fn assert_denied<T: std::fmt::Debug>(what: &str, answer: Result<T, tonic::Status>) {
    let refusal = Refusal::from(answer.expect_err(what));
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (tonic::Code::FailedPrecondition, "DATABASE_PERMISSION"),
        "{what}: {refusal:?}"
    );
    assert!(refusal.message.contains("database role may not"), "{refusal:?}");
}

fn run_id(run_id: &str) -> GetRunRequest {
    GetRunRequest { run_id: run_id.into() }
}
