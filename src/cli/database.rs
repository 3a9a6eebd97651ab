//! Which database a command works on.

use std::time::Duration;

use crate::store::{Db, DbOptions};

/// The option of every command that works on a database itself.
#[derive(Debug, Clone, clap::Args)]
pub struct DatabaseOptions {
    /// The database (postgres://USER@HOST/NAME); DATABASE_URL is asked, too
    #[arg(long = "database-url", env = "RATER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub url: Option<String>,
}

impl DatabaseOptions {
    /// The URL that was given, or DATABASE_URL.
    pub fn url(&self) -> Result<String, String> {
        self.url.clone().or_else(|| std::env::var("DATABASE_URL").ok()).filter(|url| !url.is_empty()).ok_or_else(
            || "no database: set --database-url, RATER_DATABASE_URL or DATABASE_URL to postgres://USER@HOST/NAME".into(),
        )
    }

    /// The database.
    pub fn connect(&self) -> Result<Db, String> {
        let options =
            DbOptions { url: self.url()?, max_connections: 2, acquire_timeout: Duration::from_secs(10) };
        Db::new(&options).map_err(|_| "the database URL is not one: write postgres://USER@HOST/NAME".into())
    }
}
