//! Reading `rating_anomaly`: what the latest run of each hour could not bill, gathered, page by
//! page, by key. Only the rating statement writes it.

use chrono::{DateTime, Utc};

use super::{Db, Error, GroupBy, UsageFilter};
use crate::domain::rating::AnomalyKind;

/// Which anomalies, and what they are gathered by beside their kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnomalyQuery {
    /// Whose, and of which hours.
    pub filter: UsageFilter,
    /// Any of these kinds; empty filters nothing.
    pub kinds: Vec<AnomalyKind>,
    /// What they are gathered by.
    pub group_by: GroupBy,
}

/// Where a group stands in the order of pages. What is not gathered by is the same in all.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AnomalyPageKey {
    /// The kind, by its number in the contract.
    pub rank: i32,
    /// Who.
    pub auth_id: String,
    /// On what.
    pub resource_id: String,
    /// Which model.
    pub model_id: String,
    /// When.
    pub period: DateTime<Utc>,
}

/// Events that were not billed, gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnomalyGroup {
    /// Where it stands; its ids are empty where the events had none, or where it is not
    /// gathered by them.
    pub key: AnomalyPageKey,
    /// Why they were not billed.
    pub kind: AnomalyKind,
    /// At most 10, in order of their bytes.
    pub base_models: Vec<String>,
    /// The first hour.
    pub first_window_start: DateTime<Utc>,
    /// The last hour.
    pub last_window_start: DateTime<Utc>,
    /// How many they are.
    pub events: i64,
    /// Their prompt tokens.
    pub prompt_tokens: i64,
    /// Their cached tokens.
    pub cached_tokens: i64,
    /// Their completion tokens.
    pub completion_tokens: i64,
    /// One of them, of the last hour that has one.
    pub sample_request_id: String,
}

impl Db {
    /// At most `limit` groups after `after`.
    pub async fn anomaly_page(
        &self,
        query: &AnomalyQuery,
        after: Option<&AnomalyPageKey>,
        limit: i64,
    ) -> Result<Vec<AnomalyGroup>, Error> {
        let AnomalyQuery { filter, kinds, group_by } = query;
        let kinds: Vec<String> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        let read = sqlx::query_file!(
            "src/store/sql/anomaly_page.sql",
            filter.since,
            filter.until,
            &filter.auth_ids,
            &filter.resource_ids,
            &filter.model_ids,
            &kinds,
            group_by.auth_id,
            group_by.resource_id,
            group_by.model_id,
            group_by.period_name(),
            after.map(|key| key.rank),
            after.map(|key| key.auth_id.as_str()),
            after.map(|key| key.resource_id.as_str()),
            after.map(|key| key.model_id.as_str()),
            after.map(|key| key.period),
            limit
        )
        .fetch_all(&self.reads);
        let rows = self.observed("SELECT rating_anomaly", read).await?;
        let groups = rows.into_iter().map(|r| AnomalyGroup {
            kind: AnomalyKind::parse(&r.kind),
            key: AnomalyPageKey {
                rank: r.rank,
                auth_id: r.auth_id,
                resource_id: r.resource_id,
                model_id: r.model_id,
                period: r.period,
            },
            base_models: r.base_models,
            first_window_start: r.first_window_start,
            last_window_start: r.last_window_start,
            events: r.events,
            prompt_tokens: r.prompt_tokens,
            cached_tokens: r.cached_tokens,
            completion_tokens: r.completion_tokens,
            sample_request_id: r.sample_request_id,
        });
        Ok(groups.collect())
    }
}
