//! The HTTP port: health, metrics, status. Loopback unless told otherwise. It reads [`crate::metrics::Status`] and decides
//! nothing; the relay works the same without it.
//!
//! | path | answer |
//! |---|---|
//! | `/health/live` | 200 while the process answers at all |
//! | `/health/ready` | 200, or 503 and the reasons ([`ready`]) |
//! | `/metrics` | OpenMetrics text ([`exposition`]) |
//! | `/api/v1/status` | JSON ([`report`]) |

pub mod connect;
pub mod exposition;
mod listen;
pub mod ready;
pub mod report;

use crate::config::HttpConfig;
use crate::config::secret::Secret;
use crate::metrics::Board;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A matter of configuration (exit code 2).
    #[error(
        "`http.listen = \"{0}\"` is reachable from other machines, and no `http.token` is set\n  what to do: set \
         http.token (callers then send `Authorization: Bearer …`), or listen on 127.0.0.1"
    )]
    TokenMissing(SocketAddr),
    #[error(
        "listen on {address} (`http.listen`): {error}\n  what to do: name a free port, or `listen = \"\"` for no port at all"
    )]
    Bind { address: SocketAddr, error: std::io::Error },
}

/// Refuses an address beyond loopback without a token. `check` and `run` both ask.
pub fn validate(http: &HttpConfig) -> Result<(), ControlError> {
    let has_token = http.token.as_ref().is_some_and(|token| !token.expose().is_empty());
    match http.listen {
        Some(address) if !address.ip().is_loopback() && !has_token => Err(ControlError::TokenMissing(address)),
        _ => Ok(()),
    }
}

/// The open port.
#[derive(Debug)]
pub struct Control {
    /// Where it listens; the port is a real one also when 0 was asked for.
    pub address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pipelines: Board,
    token: Option<Secret>,
    window: Duration,
    connect: OnceLock<connect::Connect>,
}

impl Control {
    /// Opens the port; `None` if the configuration wants none.
    pub async fn bind(http: &HttpConfig, pipelines: Board) -> Result<Option<Control>, ControlError> {
        validate(http)?;
        let Some(address) = http.listen else { return Ok(None) };
        let bind = |error| ControlError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let token = http.token.clone().filter(|token| !token.expose().is_empty());
        let shared = Shared { pipelines, token, window: http.ready_window, connect: OnceLock::new() };
        Ok(Some(Control { address, listener, shared: Arc::new(shared) }))
    }

    /// Serves `/connectors` too, as Kafka Connect does.
    pub fn with_connect(self, connect: connect::Connect) -> Control {
        drop(self.shared.connect.set(connect));
        self
    }

    /// Answers until `stop`. Open requests are not waited for: nothing hangs on them.
    pub async fn serve(self, stop: CancellationToken) {
        listen::serve(self.listener, router(self.shared), stop).await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .fallback(connect::serve)
        .layer(middleware::from_fn_with_state(shared.clone(), own_name))
        .layer(middleware::from_fn_with_state(shared.clone(), authorize))
        // health is for probes, which hold no secrets, and it tells little
        .route("/health/live", get(live))
        .route("/health/ready", get(readiness))
        .with_state(shared)
}

async fn live() -> &'static str {
    "alive\n"
}

async fn readiness(State(shared): State<Arc<Shared>>) -> Response {
    let answer = ready::Readiness::of(&shared.pipelines.all(), shared.window);
    let code = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(answer)).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match exposition::text(&shared.pipelines.all(), shared.window) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<report::Report> {
    Json(report::Report::of(&shared.pipelines.all(), shared.window))
}

async fn authorize(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if let Some(token) = &shared.token
        && !carries(request.headers(), token)
    {
        let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, ask, "send `Authorization: Bearer` and the http.token\n").into_response();
    }
    next.run(request).await
}

/// Without a token the port is open to every program of this machine, a browser too: a page from elsewhere must not reach it,
/// neither across origins nor under a name that somebody made point here (DNS rebinding). So the host is asked to be a loopback
/// name or an address, and an origin to be that host. Who holds the token is no such page.
async fn own_name(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if shared.token.is_some() {
        return next.run(request).await;
    }
    let host = text_of(request.headers(), header::HOST).unwrap_or_default();
    if !is_here(&host) {
        let text = format!("this port answers to localhost and to addresses, not to the name {host}\n");
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    match text_of(request.headers(), header::ORIGIN) {
        Some(origin) if origin.split_once("://").is_none_or(|(_, origin)| origin != host) => {
            let text = "this port does not answer to pages of other origins; set http.token for programs elsewhere\n";
            (StatusCode::FORBIDDEN, text).into_response()
        }
        _ => next.run(request).await,
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?").to_owned())
}

/// No host at all (HTTP/1.0), an address, or a name that means this machine everywhere.
fn is_here(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let name = if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    let name = name.to_ascii_lowercase();
    address || name.is_empty() || name == "localhost" || name.ends_with(".localhost")
}

fn carries(headers: &HeaderMap, token: &Secret) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some((scheme, sent)) = sent.and_then(|value| value.split_once(' ')) else { return false };
    scheme.eq_ignore_ascii_case("bearer") && same(sent.trim(), token.expose())
}

/// Compares digests, all bytes of them: the time taken tells neither length nor common prefix.
fn same(left: &str, right: &str) -> bool {
    let (left, right) = (Sha256::digest(left), Sha256::digest(right));
    left.iter().zip(right.iter()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Secret::new("s3cret");
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            carries(&headers, &token)
        };
        assert!(with("Bearer s3cret") && with("bearer s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3cret1", "Bearer ", "Basic s3cret", "s3cret", ""] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!carries(&HeaderMap::new(), &token));
    }

    #[test]
    fn a_host_is_an_address_or_a_name_of_this_machine() {
        for here in
            ["", "localhost", "LocalHost:8083", "x.localhost:1", "127.0.0.1:8083", "10.1.2.3", "[::1]:8083", "[::1]"]
        {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in
            ["evil.example", "evil.example:8083", "localhost.evil.example", "127.0.0.1.evil.example:1", "?"]
        {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn beyond_loopback_only_with_a_token() {
        let http = |listen: &str, token: Option<&str>| HttpConfig {
            listen: Some(listen.parse().unwrap()),
            token: token.map(Secret::new),
            ..HttpConfig::default()
        };
        assert!(validate(&http("127.0.0.1:0", None)).is_ok());
        assert!(validate(&http("[::1]:0", None)).is_ok());
        assert!(validate(&http("0.0.0.0:0", Some("x"))).is_ok());
        assert!(validate(&http("0.0.0.0:0", None)).is_err());
        assert!(validate(&http("0.0.0.0:0", Some(""))).is_err(), "an empty token is none");
        assert!(validate(&HttpConfig { listen: None, ..HttpConfig::default() }).is_ok());
    }
}
