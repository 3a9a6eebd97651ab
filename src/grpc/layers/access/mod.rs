//! Who calls, and whether they may: nobody by default.
//!
//! A caller is known by a bearer token or by its client certificate. Where there is a token, it is
//! what counts: a wrong one is refused, whatever certificate comes with it. Then the table of roles
//! ([`roles`]) decides. Health checking and reflection ask for nobody. What is not in the table is
//! refused, also for the operator. A stream ends when its caller would not be let in any more
//! ([`again`]). Without a file of identities everybody may do everything, which `serve` allows on
//! loopback, or when it is told to.

mod again;
mod roles;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use chrono::Utc;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;

use self::again::{Again, Changes};
use self::roles::{Needs, needs};
pub use self::roles::{Open, is_stream};
use super::{Around, Next, Request, Response, pass};
use crate::domain::text;
use crate::grpc::listener::Peer;
use crate::grpc::status;
use crate::grpc::tls::Tls;
use crate::identity::{Identities, Presented, Refusal};
use crate::service::caller::{Caller, Role};

/// The longest name in a line of the log, in bytes.
const MAX_LOGGED_NAME: usize = 255;

/// The layer.
#[derive(Clone, Default)]
pub struct Access {
    guard: Option<Arc<Guard>>,
}

struct Guard {
    identities: Arc<Identities>,
    tls: Option<Arc<Tls>>,
    open: Open,
    refused: Refused,
}

impl Access {
    /// Whoever `identities` knows gets in; over `tls` also by certificate.
    pub fn new(identities: Arc<Identities>, tls: Option<Arc<Tls>>, open: Open) -> Access {
        Access { guard: Some(Arc::new(Guard { identities, tls, open, refused: Refused::default() })) }
    }
}

impl Around for Access {
    async fn around<N: Next>(self, mut request: Request, next: N) -> Response {
        let Some(guard) = &self.guard else {
            request.extensions_mut().insert(Caller::unidentified());
            return pass(next, request).await;
        };
        let path = request.uri().path();
        let needed = match needs(path, guard.open) {
            Some(Needs::Nothing) => return pass(next, request).await,
            Some(Needs::Role(roles)) => Some(roles),
            None => None,
        };
        // From before the look: no change falls between.
        let changes = is_stream(path).then(|| guard.changes());
        let shown = Shown::of(&request);
        let (caller, until) = match guard.admit(&shown, needed, path) {
            Ok(known) => known,
            Err(refused) => return refused.into_http(),
        };
        let again = changes.map(|changes| {
            let (guard, path) = (guard.clone(), path.to_owned());
            Again { guard, changes, shown, needed, path }
        });
        // It has done its work, and nobody after here needs to see it.
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(caller);
        let response = pass(next, request).await;
        match again {
            Some(again) => response.map(|body| again.while_let_in(body, until)),
            None => response,
        }
    }
}

/// What a call shows of its caller.
enum Shown {
    Nothing,
    /// Something that is none.
    Wrong(Refusal),
    Token(String),
    Certificate(Arc<Presented>),
}

impl Shown {
    fn of(request: &Request) -> Shown {
        let certificate = || request.extensions().get::<Peer>()?.certificate.clone();
        match bearer(request.headers()) {
            Ok(Some(token)) => Shown::Token(token.into()),
            Ok(None) => certificate().map_or(Shown::Nothing, Shown::Certificate),
            Err(refusal) => Shown::Wrong(refusal),
        }
    }
}

/// The roles that would do.
fn or_operator(roles: &[Role]) -> Vec<Role> {
    let operator = (!roles.contains(&Role::Operator)).then_some(Role::Operator);
    roles.iter().copied().chain(operator).collect()
}

impl Guard {
    fn changes(&self) -> Changes {
        let authorities = self.tls.as_ref().map(|tls| tls.changes());
        Changes { identities: self.identities.changes(), authorities }
    }

    /// Who calls, and until when that is good; or why they may not. Without a role that is needed
    /// there is no such call.
    fn admit(&self, shown: &Shown, needed: Option<&[Role]>, path: &str) -> Result<(Caller, i64), Status> {
        let (caller, until) = self.identify(shown).map_err(|refusal| {
            self.refused.tell("", needed.map(|_| path), &refusal.to_string());
            status::unauthenticated(refusal)
        })?;
        tracing::Span::current().record("enduser.id", &*caller.name);
        let roles = needed.ok_or_else(status::unknown_method)?;
        if !roles.iter().any(|role| caller.is(*role)) {
            self.refused.tell(&caller.name, Some(path), "its roles do not allow it");
            return Err(status::role_missing(&or_operator(roles)));
        }
        Ok((caller, until))
    }

    /// Who shows this, and until when it is good, in Unix seconds.
    fn identify(&self, shown: &Shown) -> Result<(Caller, i64), Refusal> {
        let now = Utc::now().timestamp();
        let (presented, tls) = match (shown, &self.tls) {
            (Shown::Token(token), _) => return self.identities.by_token(token, now),
            (Shown::Certificate(presented), Some(tls)) => (presented, tls),
            (Shown::Certificate(_), None) | (Shown::Nothing, _) => return Err(Refusal::Nothing),
            (Shown::Wrong(refusal), _) => return Err(*refusal),
        };
        // The connection may be older than what happened since.
        if presented.is_over(now) {
            return Err(Refusal::CertificateExpired);
        }
        if !tls.vouches_for(presented, now) {
            return Err(Refusal::CertificateUnknown);
        }
        Ok((self.identities.by_certificate(presented)?, presented.until(now)))
    }
}

/// The one bearer token of a call; none without an authorization.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::NotBearer);
    }
    let text = value.to_str().map_err(|_| Refusal::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(Refusal::NotBearer)?;
    let whole = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match scheme.eq_ignore_ascii_case("bearer") && whole {
        true => Ok(Some(token)),
        false => Err(Refusal::NotBearer),
    }
}

/// Tells of refused calls, once a second at most: whoever is refused may come as often as they like.
#[derive(Default)]
struct Refused {
    told: AtomicI64,
    untold: AtomicU64,
}

impl Refused {
    fn tell(&self, caller: &str, method: Option<&str>, why: &str) {
        let now = Utc::now().timestamp();
        if self.told.swap(now, Ordering::Relaxed) == now {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let untold = self.untold.swap(0, Ordering::Relaxed);
        let caller = text::cut(caller, MAX_LOGGED_NAME);
        let method = method.unwrap_or("unknown");
        tracing::warn!(caller, method, why, untold, "a call was refused");
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderValue;

    use super::*;

    fn read(values: &[&'static [u8]]) -> Result<Option<String>, Refusal> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a header"));
        }
        bearer(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"Bearer a.b-c_d.e"]), Ok(Some("a.b-c_d.e".into())));
        assert_eq!(read(&[b"bEARER x"]), Ok(Some("x".into())));
        let wrong: [&[&'static [u8]]; 10] = [
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Bearer  a"],
            &[b"Bearer a b"],
            &[b"Bearer a, Bearer b"],
            &[b"Basic YTpi"],
            &[b"Bearer a", b"Bearer a"],
            &[b"Bearer a", b""],
            &[b"Bearer \xff"],
        ];
        for values in wrong {
            assert_eq!(read(values), Err(Refusal::NotBearer), "{values:?}");
        }
    }
}
