//! Each call: its span, under its caller's, and its counts.

use std::time::Duration;

use rater::proto::{GetRunRequest, ListRunsRequest, StreamRatedUsageChangesRequest};
use tonic::Code;

use super::{CALLER, Receiver, TRACE, service, traced};
use crate::access::guarded::{Files, subject};
use crate::harness::{rater, run_in};
use crate::rig::http_get;
use crate::stage::{Stage, until};

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

#[tokio::test]
async fn a_call_is_a_span_in_its_callers_trace() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let mut client = service.client_rating().await;
    client.list_runs(traced(ListRunsRequest::default())).await.unwrap();
    let refused = client.get_run(traced(GetRunRequest { run_id: "none".into() })).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);

    let span = &receiver.wait_for("rating.v1.RatingService/ListRuns", 1).await[0];
    assert_eq!((span.trace.as_str(), span.parent.as_str(), span.kind), (TRACE, CALLER, SERVER));
    assert_eq!(span.attribute("rpc.system.name"), "grpc");
    assert_eq!(span.attribute("rpc.method"), "rating.v1.RatingService/ListRuns");
    assert_eq!(span.attribute("rpc.response.status_code"), "OK");
    assert_eq!(span.attribute("client.address"), "127.0.0.1");
    assert!(!span.failed && !span.attributes.contains_key("error.type"), "{span:#?}");
    // A caller's mistake is no failure of the service.
    let span = &receiver.wait_for("rating.v1.RatingService/GetRun", 1).await[0];
    assert_eq!((span.attribute("rpc.response.status_code"), span.failed), ("NOT_FOUND", false));

    let resource = receiver.resources().remove(0);
    assert_eq!((&resource["service.name"], resource["service.version"].is_empty()), (&"rater".into(), false));
    assert!(!resource["service.instance.id"].is_empty());
}

#[tokio::test]
async fn a_call_tells_who_made_it_and_not_by_which_token() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let files = Files::new();
    let identities = files.path("identities.yaml");
    let arguments = ["--identities", identities.to_str().unwrap()];
    let service = service(&stage, &receiver.url(), &[], &arguments).await;
    let mut client = service.client_rating().await;
    client.list_runs(traced(ListRunsRequest::default())).await.unwrap_err();
    let token = files.signer.token(&subject("operator"));
    let mut request = traced(ListRunsRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    client.list_runs(request).await.unwrap();
    let spans = receiver.wait_for("rating.v1.RatingService/ListRuns", 2).await;
    let codes: Vec<_> = spans.iter().map(|span| span.attribute("rpc.response.status_code")).collect();
    assert_eq!(codes, ["UNAUTHENTICATED", "OK"]);
    assert!(!spans[0].attributes.contains_key("enduser.id"));
    assert_eq!(spans[1].attribute("enduser.id"), subject("operator"));
    let signature = token.rsplit('.').next().unwrap();
    assert!(!receiver.everything().contains(signature));
}

#[tokio::test]
async fn a_failure_of_the_service_is_told_as_one() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    stage.sql("ALTER TABLE rating_run RENAME TO away").await;
    let mut client = service.client_rating().await;
    client.list_runs(traced(ListRunsRequest::default())).await.unwrap_err();
    let span = &receiver.wait_for("rating.v1.RatingService/ListRuns", 1).await[0];
    assert_eq!((span.attribute("error.type"), span.failed), ("INTERNAL", true));
}

#[tokio::test]
async fn a_call_of_nothing_that_is_there_makes_no_name() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let mut client = tonic::client::Grpc::new(service.channel().await);
    client.ready().await.unwrap();
    let path = format!("/a.B/{}", "x".repeat(500)).parse().unwrap();
    let codec = tonic_prost::ProstCodec::<GetRunRequest, GetRunRequest>::default();
    let refused = client.unary(traced(GetRunRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let span = &receiver.wait_for("grpc", 1).await[0];
    assert_eq!((span.attribute("rpc.method"), span.attribute("rpc.method_original").len()), ("_OTHER", 128));
    let page = http_get(service.admin_address(), "/metrics").await;
    assert!(page.contains(r#"rater_grpc_server_handled_total{method="_OTHER",code="UNIMPLEMENTED"} 1"#));
    assert!(!page.contains("a.B"));
}

#[tokio::test]
async fn a_stream_lasts_until_its_end_and_one_that_is_left_is_cancelled() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let mut client = service.client_rating().await;
    let request = StreamRatedUsageChangesRequest { follow: true, ..Default::default() };
    let mut stream = client.stream_rated_usage_changes(traced(request)).await.unwrap().into_inner();
    drop(tokio::time::timeout(Duration::from_millis(300), stream.message()).await);
    let in_flight = async || {
        let page = http_get(service.admin_address(), "/metrics").await;
        page.lines().find_map(|line| line.strip_prefix("rater_calls_in_flight ").map(String::from))
    };
    assert_eq!(in_flight().await.as_deref(), Some("1"));
    drop(stream);
    drop(client);
    until("it is over", Duration::from_secs(10), async || in_flight().await.as_deref() == Some("0")).await;
    let span = &receiver.wait_for("rating.v1.RatingService/StreamRatedUsageChanges", 1).await[0];
    assert_eq!(span.attribute("rpc.response.status_code"), "CANCELLED");
    assert!(span.nanoseconds > 300_000_000, "{span:#?}");
}

#[tokio::test]
async fn metrics_count_calls_by_method_and_code_from_zero_on() {
    let stage = Stage::new().await;
    let service = stage.service(&[]).await;
    let series = |code: &str| {
        format!(r#"rater_grpc_server_handled_total{{method="rating.v1.RatingService/GetRun",code="{code}"}}"#)
    };
    let mut page = String::new();
    // The page may be there a moment before the server.
    until("it is 0 before a call", Duration::from_secs(10), async || {
        page = http_get(service.admin_address(), "/metrics").await;
        page.contains(&format!("{} 0\n", series("NOT_FOUND")))
    })
    .await;
    let mut client = service.client_rating().await;
    client.get_run(GetRunRequest { run_id: "none".into() }).await.unwrap_err();
    // A call is over a moment after its answer.
    until("it is counted", Duration::from_secs(10), async || {
        page = http_get(service.admin_address(), "/metrics").await;
        page.contains(&format!("{} 1\n", series("NOT_FOUND")))
    })
    .await;
    assert!(page.contains(&format!("{} 0\n", series("OK"))), "{page}");
    let took = r#"rater_grpc_server_duration_seconds_count{method="rating.v1.RatingService/GetRun"} 1"#;
    assert!(page.contains(took), "{page}");
}

/// From whatever started the command (`TRACEPARENT`) through the command to the service.
#[tokio::test]
async fn a_command_takes_its_trace_to_the_service() {
    let (stage, receiver) = (Stage::new().await, Receiver::start().await);
    let service = service(&stage, &receiver.url(), &[], &[]).await;
    let (server, endpoint) = (service.url(), receiver.url());
    let output = tokio::task::spawn_blocking(move || {
        let traceparent = format!("00-{TRACE}-{CALLER}-01");
        let environment = [
            ("RATER_SERVER", server.as_str()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_SERVICE_NAME", "nightly"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=billing,service.version=7"),
            ("TRACEPARENT", traceparent.as_str()),
        ];
        run_in(&environment, &["runs", "list"], "")
    });
    assert_eq!(output.await.unwrap().code(), Some(0));
    // All that the command sent, it sent before its end.
    let command = receiver.named("rater runs").remove(0);
    assert_eq!((command.trace.as_str(), command.parent.as_str()), (TRACE, CALLER));
    let call = receiver.wait_for("rating.v1.RatingService/ListRuns", 2).await;
    let (client, server) =
        (&call.iter().find(|span| span.kind == CLIENT), call.iter().find(|s| s.kind == SERVER));
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!((&client.parent, &server.parent), (&command.id, &client.id));
    assert_eq!((client.trace.as_str(), server.trace.as_str()), (TRACE, TRACE));
    assert_eq!(client.attribute("server.address"), "127.0.0.1");
    let nightly = receiver.resources().into_iter().find(|resource| resource["service.name"] == "nightly");
    let nightly = nightly.unwrap();
    assert_eq!((nightly["team"].as_str(), nightly["service.version"].as_str()), ("billing", "7"));
}

#[tokio::test]
async fn a_wrong_variable_is_named_before_anything_starts() {
    let mut command = rater();
    command.args(["serve", "--pricebook", "/nowhere"]).env("RATER_DATABASE_URL", "postgres://nowhere");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && said.contains("grpc"), "{said}");
}
