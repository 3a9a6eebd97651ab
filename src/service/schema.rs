//! The schema: up, down, where it stands, and whether this build may work with it.

pub use crate::store::migrations::{MigrationError, SchemaVersion, Status, Step, VERSION, down, status, up};
use crate::store::{Db, Error, migrations};

/// Why this build can't work with a database.
#[derive(Debug, thiserror::Error)]
pub enum Incompatible {
    /// There is no schema, or an older one.
    #[error("the schema is at version {found} and this rater needs {VERSION}; run `rater migrate up`")]
    Older {
        /// 0 where there is none.
        found: i32,
    },
    /// A newer schema that has dropped what this build needs.
    #[error(
        "the schema works with rater from schema version {compatible_from} on and this one has {VERSION}; \
         use a newer rater"
    )]
    Newer {
        /// The oldest build it works with.
        compatible_from: i32,
    },
    /// The server is a standby, or recovering.
    #[error("the database is in recovery (a standby); rater works on the primary only")]
    InRecovery,
    /// It could not be asked.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Refuses a database that this build can't work with.
pub async fn check(db: &Db) -> Result<(), Incompatible> {
    if db.in_recovery().await? {
        return Err(Incompatible::InRecovery);
    }
    match migrations::version(db).await? {
        None => Err(Incompatible::Older { found: 0 }),
        Some(schema) if schema.version < VERSION => Err(Incompatible::Older { found: schema.version }),
        Some(schema) if schema.compatible_from > VERSION => {
            Err(Incompatible::Newer { compatible_from: schema.compatible_from })
        }
        Some(_) => Ok(()),
    }
}
