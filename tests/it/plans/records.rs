//! A look at the records reads what is recent by an index, however much lies behind it.

use std::time::Duration;

use rater::metrics::Metrics;
use rater::service::observe::look;
use rater::store::{Db, DbOptions};

use super::{explaining_server, length, plans, whole};
use crate::harness::{psql, run_in};

/// Firsts of the statements' texts, what each reads, and the bound of the index.
const LOOKS: [(&str, &str, &str); 3] = [
    ("-- What runs did that ended", "rating_run", "Index Cond: (created_at >= "),
    ("-- When a run with each trigger", "rating_run", "Index Cond: (created_at >= "),
    ("-- Events that the latest run", "rating_anomaly", "Index Cond: (window_start >= "),
];

#[tokio::test]
async fn a_look_at_the_records_reads_nothing_of_long_ago() {
    let server = explaining_server().await;
    let postgres = &server.postgres;
    let url = postgres.url();
    assert_eq!(run_in(&[("RATER_DATABASE_URL", &url)], &["migrate", "up"], "").code(), Some(0));
    let old = "INSERT INTO pricebook (digest, pricebook_yaml) VALUES ('d', '');
        INSERT INTO rating_run (run_id, window_start, window_end, trigger, rate_basis, state,
            pricebook_digest, currency_code, fence, requested_by, request_hash, created_at, started_at,
            finished_at, told)
        SELECT 'run-' || n, at, at, 'routine', 'frozen', 'succeeded', 'd', 'USD', n, 'me', '', at, at, at, true
        FROM generate_series(1, 20000) n, LATERAL (SELECT now() - interval '1 hour' * n AS at) t;
        INSERT INTO rating_anomaly
        SELECT date_trunc('hour', now()) - interval '40 days' - interval '1 hour' * (n % 2000), 'unpriced', 'a',
            'r-' || n, 'm', '{}', 1, 0, 0, 0, NULL, 'run'
        FROM generate_series(1, 50000) n;
        ANALYZE rating_run; ANALYZE rating_anomaly";
    psql(postgres, old).unwrap();
    let since = length(postgres);
    let options = DbOptions { url, max_connections: 1, acquire_timeout: Duration::from_secs(30) };
    let db = Db::new(&options).unwrap();
    look(&db, Duration::ZERO, &Metrics::new()).await.unwrap().expect("the runs are seen");
    for (statement, table, bound) in LOOKS {
        let plans = plans(postgres, statement, since);
        assert_eq!(plans.len(), 1, "{statement}");
        assert!(plans[0].contains(bound) && !whole(&plans[0], table), "{}", plans[0]);
    }
    // And the check can fail.
    psql(postgres, "DROP INDEX rating_run_created_at_ix").unwrap();
    let since = length(postgres);
    look(&db, Duration::ZERO, &Metrics::new()).await.unwrap();
    assert!(whole(&plans(postgres, LOOKS[0].0, since)[0], "rating_run"));
}
