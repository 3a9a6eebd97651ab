//! The lease (R8): the right to rate a window. A row that overlaps no other, with a fence that
//! only grows. Only the database's clock decides whether it has expired.
//!
//! A chunk's transaction locks the row FOR KEY SHARE. A takeover must delete it, which waits
//! for that lock; a heartbeat updates a column that is no key, which doesn't.

use std::time::Duration;

use sqlx::postgres::types::PgRange;
use sqlx::{PgConnection, postgres::types::PgInterval};

use super::{Db, Error};
use crate::domain::window::Window;

/// The right to rate what is left of a run's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its run.
    pub run_id: String,
    /// Written on every row; a higher one in the table means that another run took over.
    pub fence: i64,
    /// How long it lives without a heartbeat.
    pub ttl: Duration,
}

/// Who holds a window that overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The holder's run.
    pub run_id: String,
    /// When its lease ends unless it is renewed.
    pub expires_at: chrono::DateTime<chrono::Utc>,
}

pub(super) fn range(window: Window) -> PgRange<chrono::DateTime<chrono::Utc>> {
    PgRange::from(window.start..window.end)
}

pub(super) fn interval(length: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(length.as_micros()).unwrap_or(i64::MAX) }
}

/// Takes away leases that have expired and overlap `window`, or all of them.
pub(super) async fn reap(connection: &mut PgConnection, window: Option<Window>) -> Result<(), sqlx::Error> {
    let window = window.map(range);
    sqlx::query_file!("src/store/sql/reap_leases.sql", window as _).execute(connection).await?;
    Ok(())
}

/// Tries for a lease on `window`, under the gate. None: an overlapping one is held. It is looked
/// for first: the constraint alone would wait for a holder that is about to commit a chunk, and
/// everyone else at the gate with it.
pub(super) async fn insert(
    connection: &mut PgConnection,
    run_id: &str,
    window: Window,
    ttl: Duration,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "INSERT INTO rating_lease (run_id, during, expires_at)
         SELECT $1, $2, clock_timestamp() + $3::interval
         WHERE NOT EXISTS (SELECT FROM rating_lease WHERE during && $2)
         ON CONFLICT DO NOTHING RETURNING fence",
        run_id,
        range(window),
        interval(ttl)
    )
    .fetch_optional(connection)
    .await
}

/// Who holds a lease that overlaps.
pub(super) async fn holder(
    connection: &mut PgConnection,
    window: Window,
) -> Result<Option<Holder>, sqlx::Error> {
    sqlx::query_as!(
        Holder,
        "SELECT run_id, expires_at FROM rating_lease WHERE during && $1 ORDER BY expires_at DESC LIMIT 1",
        range(window)
    )
    .fetch_optional(connection)
    .await
}

/// S1: proves inside a chunk's transaction that the lease is still ours, and keeps it so until
/// the transaction ends. A run that was asked to stop goes no further.
pub(super) async fn lock(connection: &mut PgConnection, lease: &Lease, chunk: Window) -> Result<(), Error> {
    let cancelling = sqlx::query_scalar!(
        r#"SELECT r.state = 'cancelling' AS "cancelling!"
           FROM rating_lease l JOIN rating_run r USING (run_id)
           WHERE l.run_id = $1 AND l.fence = $2 AND l.during @> $3 AND l.expires_at > clock_timestamp()
           FOR KEY SHARE OF l"#,
        lease.run_id,
        lease.fence,
        range(chunk) as _
    )
    .fetch_optional(connection)
    .await?;
    go_on(cancelling)
}

fn go_on(cancelling: Option<bool>) -> Result<(), Error> {
    match cancelling {
        None => Err(Error::LeaseLost),
        Some(true) => Err(Error::CancelAsked),
        Some(false) => Ok(()),
    }
}

/// Cuts the lease down to what is left, so that newer hours are free for other runs; gives it
/// back when nothing is. It never grows: a chunk beside this one may be committed, and its process
/// not know.
pub(super) async fn shrink(
    connection: &mut PgConnection,
    lease: &Lease,
    left: Option<Window>,
) -> Result<(), Error> {
    let touched = match left {
        Some(left) => {
            sqlx::query!(
                "UPDATE rating_lease SET during = during * $3 WHERE run_id = $1 AND fence = $2",
                lease.run_id,
                lease.fence,
                range(left)
            )
            .execute(connection)
            .await?
        }
        None => {
            sqlx::query!(
                "DELETE FROM rating_lease WHERE run_id = $1 AND fence = $2",
                lease.run_id,
                lease.fence
            )
            .execute(connection)
            .await?
        }
    };
    if touched.rows_affected() == 1 { Ok(()) } else { Err(Error::LeaseLost) }
}

impl Db {
    /// Renews a lease that has not expired. [`Error::LeaseLost`]: it is no longer ours.
    pub async fn renew(&self, lease: &Lease) -> Result<(), Error> {
        let renewed = sqlx::query!(
            "UPDATE rating_lease SET expires_at = clock_timestamp() + $3::interval
             WHERE run_id = $1 AND fence = $2 AND expires_at > clock_timestamp()",
            lease.run_id,
            lease.fence,
            interval(lease.ttl)
        )
        .execute(&self.heartbeats)
        .await?;
        if renewed.rows_affected() == 1 { Ok(()) } else { Err(Error::LeaseLost) }
    }

    /// Whether a run may go on: its lease is ours, and nobody asked it to stop. Outside of a
    /// chunk this only saves work; S1 decides.
    pub async fn may_go_on(&self, lease: &Lease) -> Result<(), Error> {
        let cancelling = sqlx::query_scalar!(
            r#"SELECT r.state = 'cancelling' AS "cancelling!"
               FROM rating_lease l JOIN rating_run r USING (run_id)
               WHERE l.run_id = $1 AND l.fence = $2 AND l.expires_at > clock_timestamp()"#,
            lease.run_id,
            lease.fence
        )
        .fetch_optional(&self.pool)
        .await?;
        go_on(cancelling)
    }
}
