//! Nothing is granted without a reason: without any one of the grants, its duty fails.

use std::sync::Arc;
use std::time::Duration;

use rater::domain::event::RawEvent;
use rater::domain::window::{Asked, Trigger};
use rater::service::audit::{self, AuditRequest, Audited};
use rater::service::change_retention::{Retired, retire};
use rater::service::change_stream::{ChangeFeed, Wanted};
use rater::service::pricebooks::Pricebooks;
use rater::service::rate_window::{RateRequest, Rater, RatingConfig};
use rater::service::record_events::EventIntake;
use rater::service::scans::Scans;
use rater::service::summaries::{SummaryQuery, SummaryRange, summarize_usage};
use rater::service::{self, FailureReason, anomalies, read_usage, runs, schema};
use rater::store::{Db, DbOptions, Error, Failure, Lease, Leaves, Taken, pricebook};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, FromRow};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Ground;
use crate::stage::event;

const TTL: Duration = Duration::from_secs(30);

/// Every privilege of a duty's role, so that it can be taken away and given back.
const PRIVILEGES: &str = "
    SELECT grantee::regrole::text AS role, what FROM (
        SELECT grantee, format('%s ON %s %s', privilege_type,
            CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass)
        FROM pg_class c, aclexplode(relacl) WHERE grantee <> relowner
        UNION ALL
        SELECT grantee, format('%s (%I) ON TABLE %s', privilege_type, attname, attrelid::regclass)
        FROM pg_attribute, aclexplode(attacl)
        UNION ALL
        SELECT grantee, format('%s ON SCHEMA %I', privilege_type, nspname)
        FROM pg_namespace, aclexplode(nspacl)
        UNION ALL
        SELECT member, roleid::regrole::text FROM pg_auth_members
    ) g (grantee, what)
    WHERE grantee IN (SELECT oid FROM pg_roles WHERE rolname IN ('rater_reader', 'rater_rating', 'rater_ingest'))
    ORDER BY 1, 2";

#[derive(Debug, FromRow)]
struct Privilege {
    role: String,
    what: String,
}

/// Why a duty failed.
#[derive(Debug)]
enum Failed {
    /// The database refused it for the role.
    Denied,
    Otherwise(#[allow(dead_code, reason = "to be printed")] String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        service::Error::Store(error).into()
    }
}

impl From<service::Error> for Failed {
    fn from(error: service::Error) -> Failed {
        match error {
            service::Error::Store(Error::Denied(_)) => Failed::Denied,
            service::Error::RunFailed(f) if f.reason == FailureReason::DatabasePermission => Failed::Denied,
            other => Failed::Otherwise(format!("{other:?}")),
        }
    }
}

impl From<schema::Incompatible> for Failed {
    fn from(error: schema::Incompatible) -> Failed {
        match error {
            schema::Incompatible::Store(error) => error.into(),
            other => Failed::Otherwise(other.to_string()),
        }
    }
}

/// A duty's connections, and who prepares what it meets.
struct Duty {
    db: Db,
    role: String,
    /// With changes after it.
    cursor: String,
    books: Arc<Pricebooks>,
    admin: PgPool,
}

impl Duty {
    fn of(ground: &Ground, role: &str, cursor: &str) -> Duty {
        let user = match role {
            "rater_reader" => "reading",
            "rater_rating" => "rating",
            _ => "ingest",
        };
        let options =
            DbOptions { url: ground.url(user), max_connections: 4, acquire_timeout: Duration::from_secs(10) };
        let books = Pricebooks::load(ground.stage.pricebook().as_ref()).unwrap();
        Duty {
            db: Db::new(&options).unwrap(),
            role: role.into(),
            cursor: cursor.into(),
            books: Arc::new(books),
            admin: ground.stage.pool.clone(),
        }
    }

    /// All of it, up to what fails first.
    async fn done(&self) -> Result<(), Failed> {
        schema::check(&self.db).await?;
        match self.role.as_str() {
            "rater_reader" => self.read().await,
            "rater_rating" => self.rate().await,
            _ => self.store().await,
        }
    }

    async fn read(&self) -> Result<(), Failed> {
        let db = &self.db;
        read_usage::read_usage(db, &Default::default(), 1, "").await?;
        let range = SummaryRange { page_size: 1, page_token: "", top: 0 };
        let scans = Scans::of(db);
        summarize_usage(db, &scans, &SummaryQuery::default(), range).await?;
        runs::list_runs(db, &Default::default(), 1, "").await?;
        anomalies::list_anomalies(db, &scans, &Default::default(), 1, "").await?;
        pricebook::find(db, "x").await?;
        audit::status(db).await?;
        db.disagreements(1).await?;
        let wanted = Wanted { cursor: self.cursor.clone(), ..Wanted::default() };
        ChangeFeed::new(db.clone(), Default::default(), 1).stream(wanted).await?;
        Ok(())
    }

    async fn store(&self) -> Result<(), Failed> {
        let intake = EventIntake::new(self.db.clone(), 1, Default::default());
        let event = RawEvent {
            request_id: "e-1".into(),
            auth_id: "auth-1".into(),
            resource_id: "res-1".into(),
            model: "acme/large".into(),
            event_time: Some((event("e-1", 0).event_time.unwrap().seconds, 0)),
            ..RawEvent::default()
        };
        // The second time it is compared with the stored one.
        for _ in 0..2 {
            intake.record(vec![event.clone()], false).await?;
        }
        Ok(())
    }

    async fn rate(&self) -> Result<(), Failed> {
        self.rate_a_window().await?;
        // What the run does beside its chunks, or only sometimes.
        let lease = Lease { run_id: "nobody".into(), fence: 0, ttl: TTL };
        self.without_lease(self.db.renew(&lease).await)?;
        self.without_lease(self.db.store_plan(&lease, &[[0; 32]]).await)?;
        self.db.claim_telling("nobody").await?;
        self.takes_over().await?;
        self.jobs().await
    }

    /// Retention, and an audit that finds something of everything and can't read a row.
    async fn jobs(&self) -> Result<(), Failed> {
        let stop = CancellationToken::new();
        assert_eq!(retire(&self.db, Duration::ZERO, &stop).await?, Retired::Done);
        self.prepare(
            "INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, event_ts)
             VALUES ('r-2', 'b', 'r', 'acme/large', 1, '2026-06-01T00:00Z') ON CONFLICT DO NOTHING",
        )
        .await;
        for _ in 0..2 {
            let book = Some(self.books.current().book.as_ref().clone());
            let request = AuditRequest { book, anew: true, ..AuditRequest::default() };
            assert_eq!(audit::audit(&self.db, &request, &stop).await?, Audited::Done);
            assert_eq!(audit::status(&self.db).await?.agrees(), Some(false));
            self.db.disagreements(1).await?;
        }
        Ok(())
    }

    async fn rate_a_window(&self) -> Result<(), Failed> {
        // What a duty that failed half-way has left behind, and rollups, so that there are changes.
        self.prepare(
            "DELETE FROM rating_lease; DELETE FROM rating_run; DELETE FROM rated_usage;
             DELETE FROM billing_event WHERE request_id = 'r-2';
             INSERT INTO billing_event (request_id, auth_id, resource_id, model, prompt_tokens, event_ts)
             VALUES ('r-0', 'a', 'r', 'acme/large', 1, '2026-06-01T00:00Z'),
                ('r-1', 'a', 'r', 'acme/large', 1, '2026-06-01T01:00Z') ON CONFLICT DO NOTHING",
        )
        .await;
        let (since, until) =
            (Some("2026-06-01T00:00:00Z".parse().unwrap()), Some("2026-06-01T02:00:00Z".parse().unwrap()));
        let asked = Asked { since, until, trigger: Some(Trigger::Backfill), basis: None };
        let rater = Arc::new(self.rater());
        let report = rater.rate_window(RateRequest { asked, ..Default::default() })?.wait().await?;
        assert_eq!(report.counts.inserted_rollups, 2);
        Ok(())
    }

    /// There is none: the statement was let through, and met nothing.
    fn without_lease(&self, answer: Result<(), Error>) -> Result<(), Failed> {
        match answer {
            Err(Error::LeaseLost) => Ok(()),
            other => Ok(other?),
        }
    }

    async fn takes_over(&self) -> Result<(), Failed> {
        let loaded = self.books.current();
        let digest = loaded.book.digest();
        self.prepare(&format!(
            "INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state,
                pricebook_digest, currency_code, fence, requested_by, request_hash, started_at)
             VALUES ('orphan', '2026-06-01T00:00Z', '2026-06-01T02:00Z', 'backfill', 'pricebook', 'pending',
                '{digest}', 'USD', 0, '', '', now())"
        ))
        .await;
        assert!(self.db.has_orphans().await?);
        let taken = self.db.take_over(digest, TTL).await?;
        let [Taken::Resumed(lease)] = taken.as_slice() else { panic!("{taken:?}") };
        let failure = Failure { reason: "INTERNAL", message: "", refused_rollups: None };
        assert!(self.db.leave_run(lease, &Leaves::Failed(failure)).await?);
        Ok(())
    }

    fn rater(&self) -> Rater {
        Rater {
            db: self.db.clone(),
            pricebooks: self.books.clone(),
            config: RatingConfig {
                trailing_hours: 24,
                closing_delay: Duration::ZERO,
                chunk_hours: 1,
                lease_ttl: TTL,
                chunk_timeout: Duration::from_secs(60),
                parallel: 1.try_into().unwrap(),
                max_routine_decrease: None,
            },
            metrics: Default::default(),
            stop: Default::default(),
            runs: Default::default(),
            admission: Arc::new(Semaphore::new(1)),
            chunks: Semaphore::new(1),
            plans: Semaphore::new(1),
            scans: Scans::of(&self.db),
        }
    }

    async fn prepare(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_string())).execute(&self.admin).await.unwrap();
    }
}

#[tokio::test]
async fn without_any_one_of_the_grants_a_duty_fails() {
    let ground = Ground::granted().await;
    let admin = &ground.stage.pool;
    let sql = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(admin).await.unwrap();
    let privileges: Vec<Privilege> = sqlx::query_as(PRIVILEGES).fetch_all(admin).await.unwrap();
    let (mut needless, mut tried) = (Vec::new(), 0);
    let mut cursor = String::new();
    for role in ["rater_rating", "rater_reader", "rater_ingest"] {
        let duty = Duty::of(&ground, role, &cursor);
        duty.done().await.unwrap_or_else(|failed| panic!("{role}: {failed:?}"));
        for Privilege { what, .. } in privileges.iter().filter(|privilege| privilege.role == role) {
            sql(format!("REVOKE {what} FROM {role}")).await;
            // A connection that has found its tables doesn't look for them again.
            let result = match what.contains("ON SCHEMA") {
                true => Duty::of(&ground, role, &cursor).done().await,
                false => duty.done().await,
            };
            match result {
                Ok(()) => needless.push(format!("{what} TO {role}")),
                Err(Failed::Denied) => {}
                Err(Failed::Otherwise(_)) if what.contains("ON SCHEMA") => {}
                Err(other) => panic!("{what} TO {role}: {other:?}"),
            }
            sql(format!("GRANT {what} TO {role}")).await;
            tried += 1;
        }
        duty.done().await.unwrap_or_else(|failed| panic!("{role}, again: {failed:?}"));
        if role == "rater_rating" {
            // Changes for the reader.
            let page = read_usage::read_usage(&duty.db, &Default::default(), 1, "").await.unwrap();
            cursor = page.change_cursor;
            duty.rate_a_window().await.unwrap();
        }
    }
    assert_eq!(needless, Vec::<String>::new());
    assert!(tried > 80, "{tried}: {privileges:?}");
    println!("{tried} privileges, each of them needed");
}
