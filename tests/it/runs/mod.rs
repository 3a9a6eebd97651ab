//! What an operator sees of runs, and of what they could not bill: GetRun, ListRuns, WatchRun,
//! CancelRun and ListAnomalies.

mod anomalies;
mod anomaly_pages;
mod cancelling;
mod listing;
mod outage;
mod reading;
mod watching;

use rater::grpc::client::Failure;
use rater::proto::*;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;
use tonic::Status;

use crate::rig::Rig;
use crate::stage::Refusal;

/// The hours that a standing run rates: ten of 2026-06-01, of which four are committed, two of
/// them since it was taken over.
const STANDING: &str = "
    INSERT INTO pricebook (digest, pricebook_yaml) VALUES (repeat('d', 64), '') ON CONFLICT DO NOTHING;
    INSERT INTO rating_lease (run_id, during, expires_at)
    SELECT 'RUN', tstzrange(h, h + interval '1 hour'), now() + interval '1 day'
    FROM (SELECT timestamptz '2100-01-01Z' + abs(hashtext('RUN') % 100000) * interval '1 hour') t (h);
    INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state, pricebook_digest,
        currency_code, fence, requested_by, request_id, request_hash, reason, expected_plan_hash, created_at,
        started_at, resumed_at)
    VALUES ('RUN', '2026-06-01T00:00Z', '2026-06-01T10:00Z', 'backfill', 'pricebook', 'STATE', repeat('d', 64),
        'EUR', 1, 'ops', 'request of RUN', 'hash', 'late price', 'plan', '2026-06-02T00:00:00Z',
        '2026-06-02T00:00:01Z', '2026-06-02T00:01:00Z');
    INSERT INTO rating_run_chunk (run_id, chunk_start, chunk_end, events, rated_events, unpriced_events,
        unattributable_events, ambiguous_base_events, malformed_events, clamped_events, rollups,
        inserted_rollups, updated_rollups, unchanged_rollups, reconciled_deletions, shrunk_rollups,
        rate_drift_rollups, unexplained_rollups, previous_cost, total_cost, committed_at)
    VALUES ('RUN', '2026-06-01T08:00Z', '2026-06-01T10:00Z', 1000, 990, 1, 2, 3, 4, 5, 60, 10, 20, 30, 6, 7, 8, 9,
            10.5, 11.25, '2026-06-02T00:00:31Z'),
        ('RUN', '2026-06-01T06:00Z', '2026-06-01T08:00Z', 5000, 5000, 0, 0, 0, 0, 0, 3, 1, 1, 1, 0, 0, 0, 0,
            1, 2, '2026-06-02T00:01:20Z')";

/// A run that stands still, as its record and its chunks would have it. Its lease outlives the
/// test, so that nobody fails it, and lies where no other's does.
async fn standing(pool: &PgPool, run_id: &str, state: &str) {
    let sql = STANDING.replace("RUN", run_id).replace("STATE", state);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

async fn get(rig: &Rig, run_id: &str) -> Run {
    let request = GetRunRequest { run_id: run_id.into() };
    rig.client().get_run(request).await.unwrap().into_inner().run.unwrap()
}

async fn list(rig: &Rig, request: ListRunsRequest) -> ListRunsResponse {
    rig.client().list_runs(request).await.unwrap().into_inner()
}

async fn anomalies(rig: &Rig, request: ListAnomaliesRequest) -> ListAnomaliesResponse {
    rig.client().list_anomalies(request).await.unwrap().into_inner()
}

/// The one field that a call is refused for, and the reason.
pub fn wrong_field<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.expect_err("refused");
    // It shows nothing of the inside.
    let _ = Refusal::from(status.clone());
    let failure = Failure::from(status);
    assert_eq!((failure.code, failure.violations.len()), ("INVALID_ARGUMENT", 1), "{failure:?}");
    let (field, description) = &failure.violations[0];
    format!("{field} {}", description.split(':').next().unwrap())
}
