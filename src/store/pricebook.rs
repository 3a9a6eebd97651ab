//! The pricebooks that runs began with, by digest, as they were written.

use super::{Db, Error};

/// The text of a pricebook that priced something, if this digest did.
pub async fn find(db: &Db, digest: &str) -> Result<Option<String>, Error> {
    let found = sqlx::query_scalar!("SELECT pricebook_yaml FROM pricebook WHERE digest = $1", digest);
    db.observed("SELECT pricebook", found.fetch_optional(&db.pool)).await
}
