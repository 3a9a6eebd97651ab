//! R10 and R13 on an adopted table: rows of another writer, which their rates may not explain.

use rater::proto::{FindingCode, GetRatedUsageRequest, RateBasis, RateWindowRequest, Severity};

use crate::harness::{empty_database, event};
use crate::rig::{BOOK, Rig, backfill, findings, routine};

/// A table as it was before us, with a row that its rates explain, one that they don't, and one
/// that has none; and the events of all three.
async fn adopted() -> Rig {
    let db = empty_database().await;
    sqlx::raw_sql(
        "CREATE TABLE rated_usage (
            id varchar(32) PRIMARY KEY, auth_id varchar(64) NOT NULL, resource_id varchar(64) NOT NULL,
            model_id varchar(255) NOT NULL, window_start timestamptz NOT NULL, window_end timestamptz,
            prompt_tokens bigint, cached_tokens bigint, completion_tokens bigint, event_count bigint,
            cost numeric(20,9), applied_prompt_rate numeric(20,9), applied_cached_rate numeric(20,9),
            applied_completion_rate numeric(20,9), currency_code char(3),
            UNIQUE (auth_id, resource_id, model_id, window_start));
         INSERT INTO rated_usage VALUES
            ('old-1', 'explained', 'resource-1', 'acme/large', '2026-06-01T10:00Z', '2026-06-01T11:00Z',
                100, 0, 10, 1, 0.000250, 0.000001, 0.000001, 0.000015, 'USD'),
            ('old-2', 'wrong', 'resource-1', 'acme/large', '2026-06-01T10:00Z', '2026-06-01T11:00Z',
                100, 0, 10, 1, 9.99, 0.000001, 0.000001, 0.000015, 'USD'),
            ('old-3', 'without', 'resource-1', 'acme/large', '2026-06-01T10:00Z', NULL,
                100, 0, 10, NULL, 5, NULL, NULL, NULL, 'USD')",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let rig = Rig::on(db, BOOK, &["--migrate"]).await;
    rig.insert(["explained", "wrong", "without"].map(|auth| event(auth).auth(auth))).await;
    rig
}

#[tokio::test]
async fn r10_a_routine_run_leaves_rows_that_their_rates_do_not_explain_and_counts_them() {
    let rig = adopted().await;
    let wrong = "(SELECT ctid, xmin FROM rated_usage WHERE auth_id <> 'explained') w";
    let versions = rig.versions(wrong).await;
    let result = rig.rated(routine(10, 11)).await;
    assert!(findings(&result).contains(&(FindingCode::UnexplainedRollups, Severity::Error, 2)), "{result:?}");
    assert!(findings(&result).contains(&(FindingCode::RateDrift, Severity::Warning, 1)), "{result:?}");
    assert_eq!(rig.versions(wrong).await, versions);
    assert_eq!(result.total_cost, "14.99025");
    // Their events gone or more of them: still left, and still told.
    rig.sql("DELETE FROM billing_event WHERE auth_id = 'wrong'").await;
    rig.insert([event("more").auth("without")]).await;
    let again = rig.rated(routine(10, 11)).await;
    assert!(findings(&again).contains(&(FindingCode::UnexplainedRollups, Severity::Error, 2)), "{again:?}");
    assert_eq!((again.reconciled_deletions, rig.versions(wrong).await), (0, versions));
}

#[tokio::test]
async fn r10_a_backfill_prices_rows_that_their_rates_did_not_explain() {
    for (basis, explained) in [(RateBasis::Pricebook, "0.00045"), (RateBasis::Frozen, "0.00025")] {
        let rig = adopted().await;
        let request = RateWindowRequest { rate_basis: basis.into(), ..backfill(10, 11) };
        let result = rig.rated(request).await;
        let costs: Vec<_> = rig.rows().await.into_iter().map(|row| (row.id, row.auth_id, row.cost)).collect();
        let expected = [
            ("old-1", "explained", explained),
            ("old-3", "without", "0.00045"),
            ("old-2", "wrong", "0.00045"),
        ];
        assert_eq!(costs, expected.map(|(id, auth, cost)| (id.into(), auth.into(), cost.into())));
        assert!(result.findings.iter().all(|f| f.code() != FindingCode::UnexplainedRollups), "{result:?}");
        rig.sql("ALTER TABLE rated_usage VALIDATE CONSTRAINT rated_usage_explains_itself").await;
    }
}

#[tokio::test]
async fn r10_rows_without_values_are_read_as_they_are() {
    let rig = adopted().await;
    let rows =
        rig.client().get_rated_usage(GetRatedUsageRequest::default()).await.unwrap().into_inner().rated_usage;
    let without = rows.iter().find(|row| row.auth_id == "without").unwrap();
    assert_eq!((without.cost.as_str(), without.applied_prompt_rate.as_str()), ("5", ""));
    assert_eq!((without.window_end, without.event_count, without.rated_at), (None, 0, None));
    assert_eq!((without.pricebook_digest.as_str(), without.run_id.as_str()), ("", ""));
}

#[tokio::test]
async fn r13_the_check_holds_every_new_row_of_an_adopted_table_that_fails_it() {
    let rig = adopted().await;
    let wrong = "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, cost)
        VALUES ('x', 'x', 'x', 'x', now(), 1)";
    let error = sqlx::query(wrong).execute(rig.pool()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().constraint(), Some("rated_usage_explains_itself"));
}
