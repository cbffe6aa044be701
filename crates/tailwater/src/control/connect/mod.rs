//! The REST interface of Kafka Connect over this process's pipelines: paths, status codes and bodies as recorded from
//! Connect 4.3. A connector here is one pipeline that was defined over REST.
//!
//! | path | methods |
//! |---|---|
//! | `/`, `/health` | GET |
//! | `/connectors` | GET (`expand=status`, `expand=info`), POST |
//! | `/connectors/N` | GET, DELETE |
//! | `/connectors/N/config` | GET, PUT, PATCH |
//! | `/connectors/N/status`, `/tasks`, `/tasks/0/status`, `/topics` | GET |
//! | `/connectors/N/pause`, `/resume`, `/stop`, `/topics/reset` | PUT |
//! | `/connectors/N/restart`, `/tasks/0/restart` | POST |
//! | `/connectors/N/offsets` | GET, PATCH, DELETE |
//! | `/connector-plugins`, `/connector-plugins/C/config`, `/connector-plugins/C/config/validate` | GET, GET, PUT |
//! | `/admin/loggers`, `/admin/loggers/L` | GET, PUT |
//!
//! Differs on purpose, see docs/connect.md: secrets never come back, bad JSON is 400 (there: 500), names that cannot be
//! addressed are refused, unknown keys too. Who may call is decided before ([`super`]).

mod answer;
mod connectors;
mod definitions;
mod loggers;
mod offsets;
mod plugins;
mod status;

use super::Shared;
use crate::config::Config;
use crate::supervisor::Supervisor;
use crate::supervisor::store::Store;
use answer::{Answer, Refusal, ok};
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use definitions::Definitions;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Larger bodies are refused.
const BODY_BYTES: usize = 1 << 20;
/// A body has to come within this time.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Limit on asking Kafka for its cluster's id.
#[cfg(feature = "kafka")]
const CLUSTER_TIME: Duration = Duration::from_secs(3);

/// The connectors of this process.
pub struct Connect {
    supervisor: Supervisor,
    definitions: Definitions,
    config: Arc<Config>,
    /// As Connect names a worker: `host:port`.
    worker: String,
    /// The id of the process's Kafka cluster, once it was asked and answered.
    cluster: OnceCell<String>,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Connect {
    /// Over what `store` holds; pipelines are started by the supervisor, not here.
    pub async fn new(
        supervisor: Supervisor,
        store: Store,
        config: Arc<Config>,
        address: SocketAddr,
    ) -> Result<Connect, tailwater_core::Failure> {
        let definitions = Definitions::load(store).await?;
        Ok(Connect { supervisor, definitions, config, worker: address.to_string(), cluster: OnceCell::new() })
    }
}

/// A request, taken apart.
struct Call {
    method: Method,
    /// Of the path, decoded.
    segments: Vec<String>,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Everything below the connectors' interface; the fallback of the port's router.
pub(super) async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let Some(connect) = shared.connect.get() else {
        return Refusal::plain(StatusCode::NOT_FOUND).into_response();
    };
    let head = request.method() == Method::HEAD;
    let answer = match call(request).await {
        Ok(call) => connect.answer(&call).await,
        Err(refusal) => Err(refusal),
    };
    let response = answer.unwrap_or_else(IntoResponse::into_response);
    if head { (response.status(), response.headers().clone()).into_response() } else { response }
}

async fn call(request: Request) -> Result<Call, Refusal> {
    let (parts, body) = request.into_parts();
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let segments: Result<Vec<String>, _> =
        parts.uri.path().split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
    let segments = segments.map_err(|_| Refusal::bad("the path is not UTF-8 text"))?;
    let plus = |text: &str| decode(&text.replace('+', " ")).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plus(k), plus(v))).collect();
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(body)) => body.to_vec(),
        Ok(Err(_)) => {
            let text = format!("the body is larger than {BODY_BYTES} bytes, or broke off");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Err(_) => {
            let text = format!("the body did not come within {} s", BODY_TIME.as_secs());
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
        }
    };
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method };
    Ok(Call { method, segments, query, headers: parts.headers, body })
}

impl Call {
    fn asks(&self, key: &str, value: &str) -> bool {
        self.query.iter().any(|(k, v)| k == key && v.eq_ignore_ascii_case(value))
    }

    /// The body as JSON, if its type says that it is.
    fn json(&self) -> Result<Value, Refusal> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return Err(Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        serde_json::from_slice(&self.body).map_err(|error| Refusal::bad(format!("the body is not JSON: {error}")))
    }

    fn object(&self) -> Result<Map<String, Value>, Refusal> {
        match self.json()? {
            Value::Object(map) => Ok(map),
            _ => Err(Refusal::bad("the body must be a JSON object")),
        }
    }

    fn accepts_json(&self) -> bool {
        let Some(accept) = self.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else { return true };
        ["application/json", "application/*", "*/*"].iter().any(|kind| accept.contains(kind))
    }
}

impl Connect {
    async fn answer(&self, call: &Call) -> Answer {
        if !call.accepts_json() {
            return Err(Refusal::plain(StatusCode::NOT_ACCEPTABLE));
        }
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            [] => self.only(call, &[Method::GET], self.root().await),
            ["health"] => self.only(
                call,
                &[Method::GET],
                ok(&json!({
                    "status": "healthy", "message": "Worker has completed startup and is ready to handle requests.",
                })),
            ),
            ["connectors"] => self.connectors(call).await,
            ["connectors", name, rest @ ..] => self.connector(call, name, rest).await,
            ["connector-plugins", rest @ ..] => self.plugins(call, rest).await,
            ["admin", "loggers", rest @ ..] => loggers::answer(call, rest),
            _ => Err(Refusal::plain(StatusCode::NOT_FOUND)),
        }
    }

    fn only(&self, call: &Call, methods: &[Method], answer: Answer) -> Answer {
        if methods.contains(&call.method) { answer } else { Err(Refusal::plain(StatusCode::METHOD_NOT_ALLOWED)) }
    }

    /// Version and commit are this program's; the cluster is that of `[kafka]`, null while it does not answer.
    async fn root(&self) -> Answer {
        let version = env!("CARGO_PKG_VERSION");
        let cluster = self.cluster.get_or_try_init(|| async { self.ask_cluster().await.ok_or(()) }).await.ok();
        ok(&json!({ "version": version, "commit": "unknown", "kafka_cluster_id": cluster }))
    }

    #[cfg(feature = "kafka")]
    async fn ask_cluster(&self) -> Option<String> {
        tailwater_kafka::cluster::id(self.config.kafka.clone()?, CLUSTER_TIME).await
    }

    #[cfg(not(feature = "kafka"))]
    async fn ask_cluster(&self) -> Option<String> {
        None
    }
}
