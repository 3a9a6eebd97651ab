//! The database: sqlx stays inside this folder. One file a table or statement; the long
//! statements are in `sql/`, checked at compile time against the migrated schema.

mod db;
mod detached;
mod error;
pub mod events;
pub mod migrations;

pub use db::{Db, DbOptions};
pub use detached::detached;
pub use error::Error;
