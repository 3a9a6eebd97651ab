//! Pages of rated usage: what each reads, by the server's own count, where the rows lie unevenly.

use rater::proto::{GetRatedUsageRequest, UsageFilter};

use super::{by_index, length, plans, whole};
use crate::harness::{OwnServer, Service, own_server, psql};
use crate::stage::{Refusal, Stage, hour};

const PAGE: &str = "-- A page of rated usage";
const BY_HOUR: &str = "rated_usage_page_ix";
const BY_IDENTITY: &str = "rated_usage_auth_id_window_start_ix";
/// Hours, and of them the one that holds much more than the others.
const HOURS: i64 = 300;
const DENSE: i64 = 150;
const DENSE_ROWS: i64 = 20_000;
/// Rows of `giant` in each hour, and of `late` in the last one.
const GIANT: i64 = 100;
const LATE: i64 = 250;
/// Hours after them, of which the last one holds `fresh`.
const UNHEARD_OF: i64 = 50;
const FRESH: i64 = 200;
/// More often than a prepared statement needs to be given a plan for all values.
const OFTEN: usize = 7;

/// Every hour holds `giant` and 200 rows of so many small identities; the last one `late`, too.
async fn filled(small: i64) -> Filled {
    let settings = [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("autovacuum", "off"),
    ];
    let server = own_server(&settings).await;
    let service = Stage::over(&server.postgres.url()).service(&["--migrate"]).await;
    let sql = format!(
        "INSERT INTO rated_usage (id, auth_id, resource_id, model_id, window_start, window_end,
            prompt_tokens, cached_tokens, completion_tokens, billable_prompt_tokens, event_count, cost,
            applied_prompt_rate, applied_cached_rate, applied_completion_rate, currency_code,
            pricebook_digest, run_id, fence, rated_at)
        SELECT md5(h || auth_id || n), auth_id, 'res-' || n, 'acme/model-' || n % 50 || '/' || n, w, w + interval '1 hour',
            100, 40, 10, 60, 1, 60 * 0.000003 + 40 * 0.0000003 + 10 * 0.000015,
            0.000003, 0.0000003, 0.000015, 'USD', repeat('0', 64), repeat('r', 36), 1, now()
        FROM generate_series(0, {HOURS} - 1) h, LATERAL (
            SELECT timestamptz '2026-06-01 00:00Z' + make_interval(hours => h) AS w, u.*
            FROM (
                SELECT 'giant' AS auth_id, n FROM generate_series(1, {GIANT}) n
                UNION ALL SELECT 'small-' || n % {small}, n FROM generate_series(1, 200) n
                UNION ALL SELECT 'late', n FROM generate_series(1, {LATE}) n WHERE h = {HOURS} - 1
                UNION ALL SELECT 'small-' || n % {small}, n FROM generate_series(201, {DENSE_ROWS}) n WHERE h = {DENSE}
            ) u
        ) r;
        VACUUM ANALYZE rated_usage"
    );
    for statement in sql.split(';') {
        psql(&server.postgres, statement).unwrap();
    }
    // And then hours that the planner has not heard of.
    let unheard_of = format!(
        "INSERT INTO rated_usage SELECT (jsonb_populate_record(r, jsonb_build_object(
            'id', md5(h || r.id), 'resource_id', r.resource_id || '!', 'auth_id', CASE h WHEN 1 THEN 'fresh' ELSE r.auth_id END,
            'window_start', r.window_start + make_interval(hours => {UNHEARD_OF} - h + 1)))).*
        FROM rated_usage r, generate_series(1, {UNHEARD_OF}) h
        WHERE r.window_start = timestamptz '2026-06-01 00:00Z' + make_interval(hours => {HOURS} - 1)
            AND r.auth_id LIKE 'small-%'"
    );
    psql(&server.postgres, &unheard_of).unwrap();
    Filled { server, service }
}

fn of_hours(since: i64, until: i64) -> UsageFilter {
    UsageFilter { since: Some(hour(since)), until: Some(hour(until)), ..UsageFilter::default() }
}

fn of_identities(auth_ids: impl IntoIterator<Item = String>) -> UsageFilter {
    UsageFilter { auth_ids: auth_ids.into_iter().collect(), ..UsageFilter::default() }
}

struct Filled {
    // Before the server: fields drop in order.
    service: Service,
    server: OwnServer,
}

impl Filled {
    /// The plans of pages, [`OFTEN`] of them one after the other, and the token after them.
    async fn plans(
        &self,
        filter: &UsageFilter,
        page_size: i32,
        mut page_token: String,
    ) -> (Vec<String>, String) {
        let from = length(&self.server.postgres);
        let mut client = self.service.client_rating().await;
        for _ in 0..OFTEN {
            let request = GetRatedUsageRequest { filter: Some(filter.clone()), page_size, page_token };
            let page = client.get_rated_usage(request).await.map_err(Refusal::from).unwrap().into_inner();
            assert!(!page.rated_usage.is_empty());
            page_token = page.next_page_token;
        }
        let plans = plans(&self.server.postgres, PAGE, from);
        assert!(plans.len() >= OFTEN);
        (plans, page_token)
    }

    /// Each page comes by that index, and looks at no more rows.
    async fn check(
        &self,
        filter: &UsageFilter,
        page_size: i32,
        token: &str,
        index: &str,
        most: i64,
    ) -> String {
        let (plans, token) = self.plans(filter, page_size, token.into()).await;
        for plan in plans {
            assert!(by_index(&plan, index, "rated_usage"), "{filter:?}, {page_size}:\n{plan}");
            let read = rows_read(&plan);
            assert!(read > 0 && read <= most, "{filter:?}, {page_size}: {read} rows\n{plan}");
        }
        token
    }

    /// Of an identity: beside the page, what it has in the hours that the page begins and ends in.
    async fn check_identities(&self) {
        for size in [1, 10, 1_000] {
            let rows = i64::from(size) + 1;
            self.check(&one("giant"), size, "", BY_IDENTITY, rows + 2 * GIANT).await;
            let of_both = UsageFilter { auth_ids: vec!["giant".into()], ..of_hours(100, 200) };
            self.check(&of_both, size, "", BY_IDENTITY, rows + 2 * GIANT).await;
            self.check(&one("late"), 10.min(size), "", BY_IDENTITY, LATE).await;
            self.check(&one("fresh"), 10.min(size), "", BY_IDENTITY, FRESH).await;
        }
    }

    fn psql(&self, sql: &str) {
        psql(&self.server.postgres, sql).unwrap();
    }
}

fn one(auth_id: &str) -> UsageFilter {
    of_identities([auth_id.to_owned()])
}

/// How many rows of the table a plan's execution looked at, those that it threw away among them.
fn rows_read(plan: &str) -> i64 {
    let number = |line: &str, before: &str| -> i64 {
        let rest = line.split_once(before).unwrap_or_else(|| panic!("{before} in {line}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let mut sum = 0;
    let mut loops = 0; // of the scan at hand
    for line in plan.lines().filter(|line| !line.contains("never executed")) {
        if line.contains("->") {
            let scan = line.contains(" on rated_usage") && !line.contains("Bitmap Index Scan");
            let actual = line.split_once("(actual ").map_or("", |(_, actual)| actual);
            loops = if scan { number(actual, "loops=") } else { 0 };
            sum += if scan { loops * number(actual, "rows=") } else { 0 };
        } else if line.contains("Rows Removed by") {
            sum += loops * number(line, ": ");
        }
    }
    sum
}

#[tokio::test]
async fn a_page_costs_its_rows_wherever_they_lie() {
    let filled = filled(200).await;
    let all = UsageFilter::default();
    for size in [1, 10, 1_000] {
        let rows = i64::from(size) + 1;
        filled.check(&all, size, "", BY_HOUR, rows).await;
        filled.check(&of_hours(100, 200), size, "", BY_HOUR, rows).await;
    }
    filled.check_identities().await;
    filled.check(&one("small-7"), 10, "", BY_IDENTITY, 10 + 3).await;
    // A few of them: a page of each, in which it is sorted out who comes first.
    let few = of_identities((1..15).map(|n| format!("small-{n}")).chain(["giant".into(), "late".into()]));
    filled.check(&few, 10, "", BY_IDENTITY, 14 * (10 + 3) + LATE + 2 * GIANT).await;
    // The middle of the dense hour.
    let dense = of_hours(DENSE, HOURS);
    let (_, middle) = filled.plans(&dense, 1_000, String::new()).await;
    let token = filled.check(&dense, 10, &middle, BY_HOUR, 11).await;
    filled.check(&dense, 1_000, &token, BY_HOUR, 1_001).await;
    // By model alone there is no index: the hours are walked, and no others.
    let of_model = UsageFilter { model_ids: vec!["acme/model-7/7".into()], ..of_hours(0, 10) };
    for plan in filled.plans(&of_model, 100, String::new()).await.0 {
        let read = rows_read(&plan);
        assert!(!whole(&plan, "rated_usage") && (10..=10 * (200 + GIANT)).contains(&read), "{plan}");
    }

    // And the checks can fail.
    filled.psql(&format!("DROP INDEX {BY_HOUR}"));
    let (without, _) = filled.plans(&dense, 10, middle).await;
    assert!(without.iter().all(|plan| rows_read(plan) > DENSE_ROWS / 2), "{}", without[0]);
    filled.psql(&format!("DROP INDEX {BY_IDENTITY}"));
    let (without, _) = filled.plans(&one("late"), 10, String::new()).await;
    assert!(without.iter().all(|plan| !by_index(plan, BY_IDENTITY, "rated_usage")), "{}", without[0]);
}

/// To which of a few identities a row belongs says so little that a planner likes to walk the hours.
#[tokio::test]
async fn a_page_of_an_identity_costs_its_rows_among_few_identities_too() {
    let filled = filled(2).await;
    filled.check_identities().await;
}
