//! The messages of SummarizeRatedUsage.

use super::dimensions;
use super::time;
use super::usage::usage_filter;
use crate::proto;
use crate::service::Error;
use crate::service::summaries::{Summary, SummaryPage, SummaryQuery};

/// Which rows, summed up by what: into one total a currency, if by nothing.
pub fn summary_query(filter: Option<proto::UsageFilter>, group_by: Vec<i32>) -> Result<SummaryQuery, Error> {
    let filter = usage_filter(filter)?;
    let mut wrong = Vec::new();
    let group_by = dimensions::group_by(group_by, &mut wrong);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong));
    }
    Ok(SummaryQuery { filter, group_by })
}

/// A page.
pub fn summarize_response(page: SummaryPage) -> proto::SummarizeRatedUsageResponse {
    proto::SummarizeRatedUsageResponse {
        summaries: page.summaries.into_iter().map(summary).collect(),
        next_page_token: page.next_page_token,
    }
}

fn summary(summary: Summary) -> proto::UsageSummary {
    proto::UsageSummary {
        auth_id: summary.key.auth_id,
        resource_id: summary.key.resource_id,
        model_id: summary.key.model_id,
        period_start: summary.period_start.map(time::to_proto),
        prompt_tokens: summary.prompt_tokens,
        cached_tokens: summary.cached_tokens,
        completion_tokens: summary.completion_tokens,
        event_count: summary.event_count,
        currency_code: summary.key.currency_code,
        cost: summary.cost,
    }
}
