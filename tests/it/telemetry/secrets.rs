//! No secret, token or event in any signal, at any level of the log.

use std::time::Duration;

use nix::sys::signal::Signal;
use rater::proto::{BillingEvent, GetRatedUsageRequest, RateWindowRequest, RecordEventsRequest, UsageFilter};
use tonic::Request;

use super::{Receiver, service, traced};
use crate::harness::{rater, run_in};
use crate::rig::http_get;
use crate::stage::{Stage, event, hour, window};

/// It stands in every place where something is secret.
const CANARY: &str = "s3cretcanary";

fn canary(request_id: &str, model: &str) -> BillingEvent {
    BillingEvent {
        request_id: format!("{CANARY}-{request_id}"),
        auth_id: format!("{CANARY}-auth"),
        resource_id: format!("{CANARY}-resource"),
        model: model.into(),
        ..event("", 0)
    }
}

/// Inside of a trace, with a token.
fn with_token<M>(message: M) -> Request<M> {
    let mut request = traced(message);
    request.metadata_mut().insert("authorization", format!("Bearer {CANARY}").parse().unwrap());
    request
}

#[tokio::test]
async fn no_signal_tells_a_secret() {
    for level in ["info,sqlx=warn", "trace"] {
        let (stage, receiver) = (Stage::new().await, Receiver::start().await);
        let headers = format!("x-api-key={CANARY}-header");
        let environment = [("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()), ("RATER_LOG", level)];
        let password = stage.url.split_once("://rater:").unwrap().1.split_once('@').unwrap().0;
        assert!(password.len() > 8);
        let mut service = service(&stage, &receiver.url(), &environment, &[]).await;
        let mut events = service.client_events().await;
        let batch = |events: Vec<BillingEvent>, skip_invalid| {
            with_token(RecordEventsRequest { events, skip_invalid })
        };
        let (known, unknown) = (canary("a", "acme/large"), canary("b", "acme/unknown"));
        events.record_events(batch(vec![known.clone(), unknown], false)).await.unwrap();
        // The same id with another content, an event that is none, and one that the database refuses.
        let other = BillingEvent { prompt_tokens: 7, ..known.clone() };
        events.record_events(batch(vec![other.clone()], false)).await.unwrap_err();
        let invalid = BillingEvent { prompt_tokens: -1, model: format!("{CANARY}\0"), ..known };
        events.record_events(batch(vec![invalid.clone(), other], true)).await.unwrap();
        events.record_events(batch(vec![invalid], false)).await.unwrap_err();
        stage.sql("ALTER TABLE billing_event ADD CHECK (prompt_tokens <> 13)").await;
        let refused = BillingEvent { prompt_tokens: 13, ..canary("c", "acme/large") };
        events.record_events(batch(vec![refused], false)).await.unwrap_err();

        let mut rating = service.client_rating().await;
        let request = RateWindowRequest { request_id: "r".into(), ..window(0, 1) };
        rating.rate_window(with_token(request)).await.unwrap();
        let filter = UsageFilter {
            since: Some(hour(0)),
            until: Some(hour(1)),
            auth_ids: vec![format!("{CANARY}-auth")],
            ..Default::default()
        };
        let read = GetRatedUsageRequest { filter: Some(filter), ..Default::default() };
        assert_eq!(rating.get_rated_usage(with_token(read)).await.unwrap().into_inner().rated_usage.len(), 1);
        let page = http_get(service.admin_address(), "/metrics").await;
        service.signal(Signal::SIGTERM);
        service.wait(Duration::from_secs(30)).await;

        assert!(!receiver.named("run").is_empty() && !receiver.series().is_empty());
        let everything = receiver.everything();
        // Our own header to the collector is for the collector.
        let sent = everything.replace(&format!("{CANARY}-header"), "");
        assert!(!sent.contains(CANARY), "{level}: {}", around(&sent));
        let log = format!("{:?}", service.logs());
        assert!(!log.contains(CANARY), "{level}: {}", around(&log));
        assert!(![&sent, &log, &page].iter().any(|text| text.contains(password)), "{level}");
        assert!(!page.contains(CANARY));
        // What the exporters stand on has no say: it would never end.
        assert!(!sent.contains("\"h2::") && !sent.contains("\"hyper"), "{level}");
    }
}

/// Rules that quote what they refuse, and a constraint, whose failing row the database tells.
#[tokio::test]
async fn a_rule_of_the_database_that_quotes_a_row_does_not_bring_it_into_the_log() {
    let rules = [
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no: %', NEW; END $$;
         CREATE TRIGGER no BEFORE INSERT ON RELATION FOR EACH ROW EXECUTE FUNCTION no()",
        "ALTER TABLE RELATION ADD CONSTRAINT none CHECK (auth_id IS NULL) NOT VALID",
        "ALTER TABLE RELATION ADD CONSTRAINT cast_fails CHECK (auth_id::int > 0) NOT VALID",
    ];
    for (rule, place) in rules.into_iter().zip(["P0001, PL/pgSQL function no()", "constraint none", "22P02"])
    {
        for relation in ["billing_event", "rated_usage"] {
            let stage = Stage::new().await;
            let service = stage.service(&["--migrate"]).await;
            let mut events = service.client_events().await;
            let known = RecordEventsRequest { events: vec![canary("a", "acme/large")], skip_invalid: false };
            if relation == "rated_usage" {
                events.record_events(known.clone()).await.unwrap();
            }
            stage.sql(&rule.replace("RELATION", relation)).await;
            if relation == "billing_event" {
                events.record_events(known).await.unwrap_err();
            } else {
                let request = RateWindowRequest { request_id: "r".into(), ..window(0, 1) };
                service.client_rating().await.rate_window(request).await.unwrap_err();
            }
            let told = |log: &str| log.contains(place);
            crate::rig::eventually("it is told", async || told(&format!("{:?}", service.logs()))).await;
            let log = format!("{:?}", service.logs());
            assert!(!log.contains(CANARY), "{relation}, {place}: {}", around(&log));
        }
    }
}

#[test]
fn an_endpoint_that_is_none_is_told_without_its_value() {
    let endpoint = format!("http://user:{CANARY}@bad host:4317");
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"] {
        let output = run_in(&[(variable, &endpoint)], &["serve", "--pricebook", "/nowhere/book.yaml"], "");
        assert_eq!(output.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains(&format!("{variable}: ")), "{output:?}");
        assert!(!output.stderr.contains(CANARY), "{output:?}");
    }
}

/// A start that fails is told, too, and what it failed with.
#[tokio::test]
async fn a_start_that_fails_is_told_without_the_password() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let mut command = rater();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--pricebook"]);
    command.arg(stage.pricebook()).env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url());
    command.env("RATER_DATABASE_URL", format!("postgres://rater:{CANARY}@127.0.0.1:1/rater"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(receiver.records().iter().any(|record| record.severity == "ERROR"), "{:#?}", receiver.records());
    assert!(!receiver.everything().contains(CANARY));
    assert!(!String::from_utf8(output.stderr).unwrap().contains(CANARY));
}

/// A little of what is around it.
fn around(text: &str) -> &str {
    let at = text.find(CANARY).unwrap_or(0);
    text.get(at.saturating_sub(300)..(at + 200).min(text.len())).unwrap_or(text)
}
