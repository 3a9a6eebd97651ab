//! Connections. Four pools: one for work; one for reads, which can't write, take too long, or wait
//! behind runs; a small one for leases, which must not starve behind the work that they guard; and
//! a smaller one for heartbeats, which must not starve behind runs that wait for their lease.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Postgres, Row, Transaction};

use super::Error;
use super::observed::Server;

/// How long a connection that comes back may take to say that it is fine.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// Settings of a session that only reads: whatever is asked, it ends, and it writes nothing. A plan
/// is made for the values at hand: one for all values would walk a table for a rare identity. Without
/// incremental sorts a page comes from an index in its own order, and not from a smaller one with each
/// hour sorted, which costs all of a dense hour for every page of it. A statement whose caller is gone
/// ends soon, or they would pile up past the pool.
const READ_ONLY: &str = "SET default_transaction_read_only = on; SET statement_timeout = '60s';
    SET idle_in_transaction_session_timeout = '10s'; SET plan_cache_mode = force_custom_plan; SET jit = off;
    SET enable_incremental_sort = off;
    SELECT set_config('client_connection_check_interval',
        CASE WHEN version() LIKE '%linux%' THEN '2s' ELSE '0' END, false)";

/// How to reach the database.
#[derive(Clone)]
pub struct DbOptions {
    /// `postgres://user@host:port/database`.
    pub url: String,
    /// Connections for work; reads have half as many beside them, leases and heartbeats a few.
    pub max_connections: u32,
    /// How long a call waits for a connection before the database counts as unavailable.
    pub acquire_timeout: Duration,
}

/// The database.
#[derive(Debug, Clone)]
pub struct Db {
    pub(super) pool: PgPool,
    pub(super) reads: PgPool,
    pub(super) control: PgPool,
    pub(super) heartbeats: PgPool,
    pub(super) server: Server,
}

impl Db {
    /// Sets the pools up. Connects lazily: a database that is away is met by the first
    /// statement, and one that comes back is found again without a restart.
    pub fn new(options: &DbOptions) -> Result<Db, Error> {
        let connect = PgConnectOptions::from_str(&options.url)?.application_name("rater");
        Ok(Db {
            server: Server::of(&connect),
            pool: pool(options, options.max_connections).connect_lazy_with(connect.clone()),
            reads: pool(options, (options.max_connections / 2).max(2))
                .after_connect(|connection, _| {
                    Box::pin(async move { sqlx::raw_sql(READ_ONLY).execute(connection).await.map(drop) })
                })
                .connect_lazy_with(connect.clone()),
            control: pool(options, 4).connect_lazy_with(connect.clone()),
            heartbeats: pool(options, 2).connect_lazy_with(connect),
        })
    }
}

impl Db {
    /// How many reads can go on at once.
    pub fn read_connections(&self) -> usize {
        self.reads.options().get_max_connections() as usize
    }

    /// A short transaction about leases and runs. Whoever stands still in one, at the gate or with
    /// a lease half given back, must not hold up everybody else: the server ends its session.
    pub(super) async fn begin_control(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut tx = self.control.begin().await?;
        sqlx::query!(
            r#"SELECT set_config('idle_in_transaction_session_timeout', '5s', true) AS a,
                set_config('statement_timeout', '10s', true) AS b,
                set_config('client_connection_check_interval',
                    CASE WHEN version() LIKE '%linux%' THEN '5s' ELSE '0' END, true) AS c"#
        )
        .fetch_one(&mut *tx)
        .await?;
        Ok(tx)
    }
}

impl Db {
    /// Whether the server is a standby, which would refuse every write.
    pub async fn in_recovery(&self) -> Result<bool, Error> {
        Ok(sqlx::query_scalar!(r#"SELECT pg_is_in_recovery() AS "r!""#).fetch_one(&self.pool).await?)
    }

    /// The database's clock, the only one that decides.
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&self.pool).await?)
    }
}

fn pool(options: &DbOptions, size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(options.acquire_timeout)
        // A `begin()` that is cancelled leaves its transaction open on the connection
        // (transact-rs/sqlx#4385): the next caller's autocommitted write would be invisible. In
        // a transaction that is open, now() is its start; the simple protocol alone keeps the
        // two equal otherwise. ROLLBACK unasked would make the server warn each time.
        .after_release(|connection, _| {
            Box::pin(async move {
                let asked = sqlx::raw_sql("SELECT now() <> statement_timestamp()").fetch_one(connection);
                // A connection that the network swallowed must not keep its place in the pool.
                let Ok(row) = tokio::time::timeout(RELEASE_PATIENCE, asked).await else { return Ok(false) };
                let open: bool = row?.try_get(0)?;
                Ok(!open)
            })
        })
}
