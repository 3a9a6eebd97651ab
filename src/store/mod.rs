//! The database: sqlx stays inside this folder. One file a table or statement; the long
//! statements are in `sql/`, checked at compile time against the migrated schema.

mod db;
mod error;
pub mod migrations;
pub mod pricebook;

pub use db::{Db, DbOptions};
pub use error::Error;
