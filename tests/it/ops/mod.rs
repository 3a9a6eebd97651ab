//! What a platform team stands on: metrics from the records, alerts, the dashboard, the runbook,
//! and the manifests.

mod records;
