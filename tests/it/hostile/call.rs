//! A call of any shape over a real connection, and its answer without a client's help.

use std::pin::Pin;
use std::time::Duration;

use axum::http::{HeaderMap, Request};
use tonic::Code;
use tonic::codegen::{Body as _, Service as _};
use tonic::transport::Channel;

/// A stream that has begun well and says nothing for so long follows what happens, and has no end.
const SILENCE: Duration = Duration::from_millis(300);

/// What is sent.
pub struct Call {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// What comes back.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub code: Option<Code>,
    pub message: String,
    pub details: String,
}

impl Answer {
    fn too_late() -> Answer {
        let (message, details) = Default::default();
        Answer { http: 200, code: Some(Code::DeadlineExceeded), message, details }
    }
}

impl Call {
    pub fn new(path: &str) -> Call {
        let headers = vec![("content-type", super::GRPC.into()), ("te", "trailers".into())];
        Call { method: "POST", path: path.into(), headers, body: Vec::new() }
    }

    pub fn method(self, method: &'static str) -> Call {
        Call { method, ..self }
    }

    /// In place of one with the same name; nothing takes it away.
    pub fn header(mut self, name: &'static str, value: &str) -> Call {
        self.headers.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            self.headers.push((name, value.into()));
        }
        self
    }

    pub fn body(self, body: Vec<u8>) -> Call {
        Call { body, ..self }
    }

    /// One whole message.
    pub fn framed(self, message: &[u8]) -> Call {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.body([&[0][..], &length, message].concat())
    }

    pub async fn send(self, connection: &mut Channel) -> Result<Answer, String> {
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let body = tonic::body::Body::new(axum::body::Body::from(self.body));
        let request = request.body(body).map_err(|error| error.to_string())?;
        std::future::poll_fn(|context| connection.poll_ready(context)).await.map_err(|e| e.to_string())?;
        let response = match connection.call(request).await {
            // The client's end gave up first.
            Err(error) if format!("{error:?}").contains("TimeoutExpired") => return Ok(Answer::too_late()),
            response => response.map_err(|error| format!("{error:?}"))?,
        };
        let (head, mut body) = response.into_parts();
        let mut headers = head.headers;
        let mut follows = None;
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            let Ok(next) = tokio::time::timeout(SILENCE, next).await else {
                follows = Some(Code::Ok);
                break;
            };
            let Some(frame) = next else { break };
            if let Ok(trailers) = frame.map_err(|error| format!("{error:?}"))?.into_trailers() {
                headers.extend(trailers);
            }
        }
        Ok(Answer {
            http: head.status.as_u16(),
            code: headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes())).or(follows),
            message: percent_decoded(&text(&headers, "grpc-message")),
            details: details(&text(&headers, "grpc-status-details-bin")),
        })
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into()).unwrap_or_default()
}

fn details(base64: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let bytes = STANDARD_NO_PAD.decode(base64.trim_end_matches('=')).unwrap();
    String::from_utf8_lossy(&bytes).into()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into()
}
