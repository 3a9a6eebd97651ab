//! SummarizeRatedUsage: what it adds up, in which order, and what it refuses.

mod plans;
mod refusals;
mod room;
mod truth;

use prost::Message;
use rater::proto::*;

use crate::rig::Rig;

const AUTH: i32 = Dimension::AuthId as i32;
const RESOURCE: i32 = Dimension::ResourceId as i32;
const MODEL: i32 = Dimension::ModelId as i32;
const HOUR: i32 = Dimension::Hour as i32;
const DAY: i32 = Dimension::Day as i32;
const MONTH: i32 = Dimension::Month as i32;

/// One answer, within the limits of a message.
async fn summarize(rig: &Rig, request: SummarizeRatedUsageRequest) -> SummarizeRatedUsageResponse {
    let answer = rig.client().summarize_rated_usage(request).await.unwrap().into_inner();
    assert!(answer.encoded_len() < 2 * 1024 * 1024, "{} bytes", answer.encoded_len());
    answer
}

/// All pages, and how many they were.
pub async fn all(rig: &Rig, mut request: SummarizeRatedUsageRequest) -> (Vec<UsageSummary>, usize) {
    let (mut summaries, mut pages) = (Vec::new(), 0);
    loop {
        let page = summarize(rig, request.clone()).await;
        if request.page_size > 0 {
            assert!(page.summaries.len() <= request.page_size as usize);
        }
        pages += 1;
        summaries.extend(page.summaries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return (summaries, pages);
        }
    }
}

pub fn by(group_by: &[i32]) -> SummarizeRatedUsageRequest {
    SummarizeRatedUsageRequest { group_by: group_by.to_vec(), ..Default::default() }
}

/// Rows of the longest ids of ours or longer, four bytes a character.
async fn long_rows(rig: &Rig, rows: u32, characters: u32) {
    rig.sql(&format!(
        "ALTER TABLE rated_usage ALTER COLUMN model_id TYPE text;
         INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end, prompt_tokens,
            cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost, applied_prompt_rate,
            applied_cached_rate, applied_completion_rate, currency_code)
         SELECT n::text, repeat('🎈', 64), repeat('🎈', 64), rpad(n::text, {characters}, '🎈'),
            '2026-06-01T10:00Z', '2026-06-01T11:00Z', n, 0, 0, n, 1, n * 0.000000000001, 0.000000000001, 0, 0, 'USD'
         FROM generate_series(1, {rows}) n"
    ))
    .await;
}
