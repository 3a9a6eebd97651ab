//! Which database a command works on: `--database-url`, then `RATER_DATABASE_URL`, then
//! `DATABASE_URL`. A URL may hold a password and is never printed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::store::{Db, DbOptions};

const MISSING: &str =
    "no database: give --database-url postgres://USER@HOST/DATABASE or set RATER_DATABASE_URL";
/// Longer than a primary takes to be replaced, shorter than a person waits.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The options that name the database. What conflicts with them conflicts with
/// `database_url`; [`DatabaseOptions::url`] alone falls back to `DATABASE_URL`, which may be
/// there for another program.
#[derive(Clone, Default, clap::Args)]
pub struct DatabaseOptions {
    /// The database: postgres://USER:PASSWORD@HOST:PORT/DATABASE [default: DATABASE_URL]
    #[arg(id = "database_url", long = "database-url", value_name = "URL")]
    #[arg(env = "RATER_DATABASE_URL", hide_env_values = true)]
    pub url: Option<String>,
}

impl fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseOptions").field("url", &self.url.as_ref().map(|_| "…")).finish()
    }
}

impl DatabaseOptions {
    /// The URL, or one line that says that there is none.
    pub fn url(&self) -> Result<String, String> {
        first(self.url.clone(), std::env::var("DATABASE_URL").ok()).ok_or_else(|| MISSING.into())
    }

    /// The database, with as many connections for work. Nothing is connected yet; an error is
    /// one line that names the option.
    pub fn connect(&self, max_connections: u32) -> Result<Db, String> {
        open(&self.url()?, max_connections)
    }
}

/// The database behind a URL; an error is one line, without the URL.
pub fn open(url: &str, max_connections: u32) -> Result<Db, String> {
    let wrong =
        |why: &str| format!("the database URL is not of the form postgres://USER@HOST/DATABASE: {why}");
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong("it does not begin with postgres://"));
    }
    let options = DbOptions { url: url.into(), max_connections, acquire_timeout: ACQUIRE_TIMEOUT };
    // The source names what is wrong with it, not the URL; the store's own words are a client's.
    Db::new(&options).map_err(|error| wrong(&error.source().map_or_else(String::new, one_line)))
}

/// An error with its causes on one line, each said once.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first that is not empty: a secret that is optional is an empty variable.
fn first(given: Option<String>, fallback: Option<String>) -> Option<String> {
    [given, fallback].into_iter().flatten().find(|url| !url.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn the_option_comes_first_and_an_empty_one_is_none() {
        assert_eq!(first(some("a"), some("b")), some("a"));
        assert_eq!(first(some(""), some("b")), some("b"));
        assert_eq!(first(None, some("b")), some("b"));
        assert_eq!(first(some(""), some("")), None);
        assert_eq!(first(None, None), None);
    }

    #[tokio::test]
    async fn a_wrong_url_is_named_without_its_password() {
        for url in [
            "postgres://rater:geheim@db:port/rater",
            "postgres://rater:ge/heim@db/rater",
            "postgres://rater:geheim@/rater?port=geheim",
            "postgres://rater:geheim@db/rater?sslmode=of",
            "mysql://rater:geheim@db/rater",
            "rater:geheim@db/rater",
            "host=db password=geheim",
        ] {
            let line = open(url, 1).expect_err(url);
            assert!(line.starts_with("the database URL is not of the form postgres://"), "{line}");
            assert!(!line.ends_with(": ") && !line.contains("heim") && !line.contains('\n'), "{line}");
        }
        let options = DatabaseOptions { url: some("postgres://rater:geheim@db/rater") };
        assert_eq!(format!("{options:?}"), "DatabaseOptions { url: Some(\"…\") }");
        assert!(options.connect(1).is_ok());
    }
}
