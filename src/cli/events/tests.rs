//! Against a service that does as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::proto::RejectedEvent;
use crate::proto::event_service_server::{EventService, EventServiceServer};

/// What the service does with a call: stores it all once the script is over.
enum Does {
    Rejects(Vec<RejectedEvent>),
    Fails(Status),
}

#[derive(Clone, Default)]
struct Scripted {
    script: Arc<Mutex<VecDeque<Does>>>,
    calls: Arc<Mutex<Vec<RecordEventsRequest>>>,
}

#[tonic::async_trait]
impl EventService for Scripted {
    async fn record_events(
        &self,
        request: Request<RecordEventsRequest>,
    ) -> Result<Response<RecordEventsResponse>, Status> {
        let request = request.into_inner();
        let events = request.events.len();
        self.calls.lock().expect("calls").push(request);
        let rejected = match self.script.lock().expect("script").pop_front() {
            Some(Does::Fails(status)) => return Err(status),
            Some(Does::Rejects(rejected)) => rejected,
            None => Vec::new(),
        };
        let stored = i64::try_from(events - rejected.len()).unwrap_or_default();
        Ok(Response::new(RecordEventsResponse { stored, duplicates: 0, rejected }))
    }
}

/// What a `send` did.
struct Ran {
    complete: bool,
    out: String,
    err: String,
    /// How many events each call had.
    calls: Vec<usize>,
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    events: Events,
}

/// Runs `rater events send - ARGUMENTS` on `input`. The first `broken` connections are cut in
/// the middle of the first call.
async fn run(script: Vec<Does>, arguments: &[&str], input: &str, broken: usize) -> Ran {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (sender, connections) = tokio::sync::mpsc::channel::<std::io::Result<TcpStream>>(4);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            if connection < broken {
                // The preface, and then some of the call.
                let mut bytes = [0; 150];
                drop(stream.read_exact(&mut bytes).await);
            } else if sender.send(Ok(stream)).await.is_err() {
                return;
            }
        }
    });
    let service = Scripted { script: Arc::new(Mutex::new(script.into())), ..Scripted::default() };
    let server = Server::builder().add_service(EventServiceServer::new(service.clone()));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));

    let arguments = [&["events", "send", "-", "--server", &url], arguments].concat();
    let cli = <Cli as clap::Parser>::try_parse_from(arguments).expect("valid arguments");
    let Command::Send(send) = cli.events.command;
    let channel = send.client.channel().await.expect("it listens");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let complete =
        send.send("in.ndjson", input.as_bytes(), channel, &mut out, &mut err).await.expect("printed");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let calls = service.calls.lock().expect("calls").iter().map(|call| call.events.len()).collect();
    Ran { complete, out: text(out), err: text(err), calls }
}

fn lines(count: usize) -> String {
    (0..count).map(|i| format!("{{\"request_id\":\"r{i}\"}}\n")).collect()
}

fn unavailable() -> Does {
    Does::Fails(Status::unavailable("the database is not available"))
}

#[tokio::test]
async fn a_file_is_sent_in_batches_and_summed_up() {
    let ran = run(vec![], &["--batch-size", "2"], &lines(5), 0).await;
    assert!(ran.complete, "{}", ran.err);
    assert_eq!((ran.calls, ran.err.as_str()), (vec![2, 2, 1], ""));
    assert_eq!(ran.out, "stored  duplicates  rejected\n     5           0         0\n");
    let ran = run(vec![], &["-o", "csv"], &lines(5), 0).await;
    assert_eq!((ran.calls, ran.out.as_str()), (vec![5], "stored,duplicates,rejected\n5,0,0\n"));
    let ran = run(vec![], &["-o", "json"], "", 0).await;
    assert!(ran.complete && ran.calls.is_empty());
    assert_eq!(ran.out, "{\"stored\":\"0\",\"duplicates\":\"0\",\"rejected\":[]}\n");
}

#[tokio::test]
async fn a_batch_is_tried_again_until_it_is_answered() {
    let codes =
        [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded, Code::Aborted, Code::Cancelled];
    for code in codes {
        let ran = run(vec![Does::Fails(Status::new(code, "later"))], &[], &lines(2), 0).await;
        assert!(ran.complete, "{code:?}: {}", ran.err);
        assert_eq!(ran.calls, [2, 2]);
        assert_eq!(ran.err.lines().count(), 1, "told once: {}", ran.err);
        assert!(ran.err.ends_with(": later; trying again for up to 60s\n"), "{}", ran.err);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_made_again() {
    let ran = run(vec![], &[], &lines(2_000), 2).await;
    assert!(ran.complete, "{}", ran.err);
    assert_eq!(ran.calls, [1_000, 1_000]);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[tokio::test]
async fn a_service_that_stays_away_ends_the_command_in_bounded_time() {
    let script = (0..100).map(|_| unavailable()).collect();
    let started = std::time::Instant::now();
    let ran = run(script, &["--retry-for", "500ms"], &lines(2), 0).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!ran.complete);
    assert!(ran.calls.len() > 1, "tried again");
    assert!(
        ran.err.contains("in.ndjson:1-2: the batch was refused: UNAVAILABLE: the database is"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_refused_batch_names_the_lines_and_is_not_tried_again() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("events[0].prompt_tokens", "is -1; a token count is 0 or more");
    details.add_bad_request_violation("events[1].request_id", "is empty; give each event an id of its own");
    let status = Status::with_error_details(Code::InvalidArgument, "the request is wrong", details);
    let input = format!("{}\n\n{}", lines(2), lines(2));
    let ran = run(vec![Does::Rejects(vec![]), Does::Fails(status)], &["--batch-size", "2"], &input, 0).await;
    assert!(!ran.complete);
    assert_eq!(ran.calls, [2, 2]);
    let err: Vec<&str> = ran.err.lines().collect();
    assert_eq!(err[0], "in.ndjson:5: prompt_tokens: is -1; a token count is 0 or more");
    assert_eq!(err[1], "in.ndjson:6: request_id: is empty; give each event an id of its own");
    let refused = "in.ndjson:5-6: the batch was refused: INVALID_ARGUMENT: the request is wrong; fix these, or leave \
                   them out with --skip-invalid; 2 stored and 0 duplicates before it";
    assert!(err[2].starts_with(refused), "{}", err[2]);
    assert_eq!(ran.out.lines().last().map(str::trim), Some("2           0         0"));
}

#[tokio::test]
async fn a_bad_line_ends_the_command_and_says_what_was_stored_before_it() {
    for skip in [&[][..], &["--skip-invalid"]] {
        let input = format!("{}{{\"promt_tokens\":1}}\n{}", lines(3), lines(3));
        let arguments = [&["--batch-size", "2"], skip].concat();
        let ran = run(vec![], &arguments, &input, 0).await;
        assert!(!ran.complete);
        assert_eq!(ran.calls, [2]);
        assert!(ran.err.starts_with("in.ndjson:4: there is no field \"promt_tokens\"; "), "{}", ran.err);
        assert!(ran.err.contains("2 stored and 0 duplicates before it"), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1);
    }
}

#[tokio::test]
async fn rejected_events_are_named_by_line_and_fail_the_command() {
    let rejected = |index| RejectedEvent {
        index,
        request_id: "r\n1".into(),
        field: "prompt_tokens".into(),
        reason: "NEGATIVE".into(),
    };
    let script = || vec![Does::Rejects(vec![rejected(1)]), Does::Rejects(vec![rejected(0)])];
    let input = format!("\n{}", lines(4));
    let arguments = ["--skip-invalid", "--batch-size", "2", "-o"];
    let ran = run(script(), &[&arguments[..], &["csv"]].concat(), &input, 0).await;
    assert!(!ran.complete, "not every event is stored");
    let expected = "in.ndjson:3: rejected: prompt_tokens NEGATIVE (request_id \"r\\n1\")\n\
                    in.ndjson:4: rejected: prompt_tokens NEGATIVE (request_id \"r\\n1\")\n";
    assert_eq!(ran.err, expected);
    assert_eq!(ran.out, "stored,duplicates,rejected\n2,0,2\n");

    let ran = run(script(), &[&arguments[..], &["json"]].concat(), &input, 0).await;
    // Indices of the whole input, not of the calls.
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("one object");
    assert_eq!((&json["rejected"][0]["index"], &json["rejected"][1]["index"]), (&1.into(), &2.into()));
    assert_eq!(json["rejected"][0]["request_id"], "r\n1");
}
