//! ListAnomalies: what the latest run of each hour could not bill (R3), gathered so that an
//! operator sees what to mend; what was mended is gone with the next run of its hours.

use serde_json::json;

use super::error::Error;
use super::page::{self, PageSizes};
use super::page_token::{PageKey, PageTokens, are_texts, is_time};
use super::read_usage;
use super::scans::Scans;
use crate::store::{AnomalyPageKey, Db};

pub use crate::store::{AnomalyGroup, AnomalyQuery};

const SIZES: PageSizes = PageSizes { default: 100, largest: 1_000 };
/// More than what a group's numbers, times and framing take beside its texts.
const GROUP_OVERHEAD: usize = 256;

/// One page.
#[derive(Debug, Clone)]
pub struct AnomalyPage {
    /// By kind, then by the dimensions.
    pub groups: Vec<AnomalyGroup>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A page of at most `page_size` groups (0: 100; at most 1,000) after the token's. A run that
/// commits between two pages changes what follows; none is told twice.
pub async fn list_anomalies(
    db: &Db,
    scans: &Scans,
    query: &AnomalyQuery,
    page_size: i32,
    page_token: &str,
) -> Result<AnomalyPage, Error> {
    let mut wrong = Vec::new();
    let size = SIZES.of(page_size, &mut wrong);
    read_usage::check(&query.filter, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    let tokens = tokens(query);
    let after = tokens.parse(page_token)?;
    let _turn = scans.turn().await?;
    let mut groups =
        db.anomaly_page(query, after.as_ref(), i64::from(size) + 1).await.map_err(read_usage::reading)?;
    let more = page::cut(&mut groups, size, weight);
    let last = groups.last().filter(|_| more);
    let next_page_token = last.map(|group| tokens.issue(group.key.clone())).unwrap_or_default();
    Ok(AnomalyPage { groups, next_page_token })
}

fn tokens(query: &AnomalyQuery) -> PageTokens {
    let kinds: Vec<&str> = query.kinds.iter().map(|kind| kind.as_str()).collect();
    let arguments = json!([read_usage::arguments(&query.filter), kinds, query.group_by]);
    PageTokens::of("ListAnomalies", &arguments)
}

fn weight(group: &AnomalyGroup) -> usize {
    let AnomalyPageKey { auth_id, resource_id, model_id, .. } = &group.key;
    let texts = [auth_id, resource_id, model_id, &group.sample_request_id];
    // A tag and a length each.
    let bases = group.base_models.iter().map(|base| base.len() + 6);
    GROUP_OVERHEAD + texts.iter().map(|text| text.len()).sum::<usize>() + bases.sum::<usize>()
}

impl PageKey for AnomalyPageKey {
    fn is_storable(&self) -> bool {
        is_time(self.period) && are_texts(&[&self.auth_id, &self.resource_id, &self.model_id])
    }
}
