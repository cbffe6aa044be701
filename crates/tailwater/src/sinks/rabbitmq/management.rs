//! The management API, as far as topology needs it: what AMQP cannot show (arguments, bindings, policies).
//!
//! Optional: without `management_url` nobody asks. Statistics of it (`policy`, `effective_policy_definition` of a queue)
//! lag by up to 6 s and are never used; policies and arguments are exact at once (observed on RabbitMQ 3.10).

use super::connect::parse_url;
use super::policy::Policy;
use crate::config::secret::Secret;
use crate::net::tls::{self, TlsOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 16 << 20;

/// Why the API gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error("management_url: {0}")]
    Url(String),
    #[error("reach the management API at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    #[error(
        "the management API does not let us ({status}: {reason}); the user needs the tag `{tag}`: rabbitmqctl set_user_tags {user} {tag}"
    )]
    NotAllowed { status: u16, reason: String, user: String, tag: &'static str },
    #[error("the management API answered {status} to {path}: {reason}")]
    Answer { status: u16, path: String, reason: String },
}

/// A queue as it is.
#[derive(Clone, Debug, Deserialize)]
pub struct QueueSeen {
    pub durable: bool,
    #[serde(default)]
    pub arguments: Map<String, Value>,
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// An exchange as it is.
#[derive(Clone, Debug, Deserialize)]
pub struct ExchangeSeen {
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
}

/// A binding of a queue.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct BindingSeen {
    pub source: String,
    pub destination: String,
    pub routing_key: String,
}

/// One API, one user.
pub struct Management {
    host: String,
    port: u16,
    tls: Option<TlsOptions>,
    user: String,
    authorization: String,
}

impl Management {
    /// `http[s]://user:password@host:port`; the user of the broker's URL if it names none is not assumed: `guest`.
    pub fn new(url: &Secret, ca_file: Option<PathBuf>) -> Result<Self, ManagementError> {
        let text = url.expose();
        let as_amqp = match text.split_once("://") {
            Some(("http", rest)) => format!("amqp://{rest}"),
            Some(("https", rest)) => format!("amqps://{rest}"),
            _ => return Err(ManagementError::Url("it must begin with http:// or https://".into())),
        };
        let (_, rest) = text.split_once("://").expect("found above");
        let authority = rest.split('/').next().unwrap_or_default();
        let address = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
        let has_port = address.rsplit_once(':').is_some_and(|(host, port)| !port.contains(']') && !host.is_empty());
        let endpoint = parse_url(&as_amqp).map_err(ManagementError::Url)?;
        let port = match (has_port, endpoint.tls) {
            (true, _) => endpoint.port,
            (false, false) => 15672,
            (false, true) => 15671,
        };
        let (user, password) = endpoint.credentials();
        Ok(Management {
            authorization: format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            user: user.to_owned(),
            tls: endpoint.tls.then(|| TlsOptions { root_cert: ca_file, ..TlsOptions::default() }),
            host: endpoint.host,
            port,
        })
    }

    pub async fn queue(&self, virtual_host: &str, name: &str) -> Result<Option<QueueSeen>, ManagementError> {
        self.get(&format!("/api/queues/{}/{}", part(virtual_host), part(name))).await
    }

    pub async fn exchange(&self, virtual_host: &str, name: &str) -> Result<Option<ExchangeSeen>, ManagementError> {
        self.get(&format!("/api/exchanges/{}/{}", part(virtual_host), part(name))).await
    }

    /// All bindings of a queue; none if it does not exist.
    pub async fn bindings(&self, virtual_host: &str, queue: &str) -> Result<Vec<BindingSeen>, ManagementError> {
        let path = format!("/api/queues/{}/{}/bindings", part(virtual_host), part(queue));
        Ok(self.get(&path).await?.unwrap_or_default())
    }

    pub async fn policies(&self, virtual_host: &str) -> Result<Vec<Policy>, ManagementError> {
        Ok(self.get(&format!("/api/policies/{}", part(virtual_host))).await?.unwrap_or_default())
    }

    /// Makes a policy or replaces the one of this name.
    pub async fn set_policy(&self, virtual_host: &str, policy: &Policy) -> Result<(), ManagementError> {
        let path = format!("/api/policies/{}/{}", part(virtual_host), part(&policy.name));
        let body = serde_json::to_vec(policy).expect("a policy is plain JSON");
        self.request(Method::PUT, &path, body, "policymaker").await.map(|_| ())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ManagementError> {
        let Some(body) = self.request(Method::GET, path, vec![], "management").await? else { return Ok(None) };
        serde_json::from_slice(&body).map(Some).map_err(|error| ManagementError::Answer {
            status: 200,
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// One request on a connection of its own; `None` = 404.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        tag: &'static str,
    ) -> Result<Option<Bytes>, ManagementError> {
        let answer = tokio::time::timeout(LIMIT, self.exchange_bytes(method, path, body)).await;
        let (status, bytes) = answer.map_err(|_| self.unreachable("no answer within 10 s"))??;
        let reason = || String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(bytes)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ManagementError::NotAllowed {
                status: status.as_u16(),
                reason: reason(),
                user: self.user.clone(),
                tag,
            }),
            _ => Err(ManagementError::Answer { status: status.as_u16(), path: path.to_owned(), reason: reason() }),
        }
    }

    async fn exchange_bytes(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ManagementError> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await.map_err(|e| self.unreachable(e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.unreachable(e))?;
        match &self.tls {
            None => self.send(TokioIo::new(tcp), request).await,
            Some(options) => {
                let stream = tls::connect(options, &self.host, tcp).await.map_err(|e| self.unreachable(e))?;
                self.send(TokioIo::new(stream), request).await
            }
        }
    }

    async fn send<S>(&self, io: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ManagementError>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| self.unreachable(e))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Ok((status, body.map_err(|e| self.unreachable(e))?.to_bytes()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(self.unreachable(error)),
            },
        }
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> ManagementError {
        let endpoint = format!("{}:{}", self.host, self.port);
        ManagementError::Unreachable { endpoint, reason: reason.to_string() }
    }
}

fn part(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_their_ports() {
        for (url, port, tls) in [
            ("http://h", 15672, false),
            ("https://h", 15671, true),
            ("http://u:p@h:15673/", 15673, false),
            ("http://[::1]", 15672, false),
            ("http://[::1]:9", 9, false),
        ] {
            let api = Management::new(&Secret::new(url), None).unwrap();
            assert_eq!((api.port, api.tls.is_some()), (port, tls), "{url}");
        }
        assert!(Management::new(&Secret::new("amqp://h"), None).is_err());
        assert_eq!(part("/"), "%2F");
    }
}
