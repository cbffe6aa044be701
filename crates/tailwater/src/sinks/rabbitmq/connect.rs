//! From a URL to an open channel with confirms: TCP, TLS, the handshake, all within one time limit.
//!
//! A frozen broker accepts TCP and never speaks, so the limit covers the whole handshake, not only the socket. Host names
//! and the password file are read again at every attempt. Not here: retrying (lanes) and publishing (publisher).

use super::config::RabbitmqConfig;
use super::failure::{AmqpError, Identity};
use super::frame::{self, Frame, Method, Writer};
use crate::net::tls::{self, TlsOptions, Verify};
use bytes::BytesMut;
use percent_encoding::percent_decode_str;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The one channel of a connection.
pub const CHANNEL: u16 = 1;
/// Ours: larger frames gain nothing (observed), smaller ones only cost.
const FRAME_MAX: u32 = 131_072;

/// One broker to try.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    user: String,
    password: String,
    pub virtual_host: String,
}

/// Without the password.
impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Endpoint {
    /// User and password, for a log-in.
    pub(crate) fn credentials(&self) -> (&str, &str) {
        (&self.user, &self.password)
    }

    pub fn identity(&self) -> Identity {
        Identity { user: self.user.clone(), virtual_host: self.virtual_host.clone() }
    }
}

/// The endpoints of a configuration, in order; reads the password file.
pub fn endpoints(config: &RabbitmqConfig) -> Result<Vec<Endpoint>, AmqpError> {
    let password = match (&config.password, &config.password_file) {
        (Some(password), _) => Some(password.expose().to_owned()),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| AmqpError::Config(format!("read the password file {}: {e}", path.display())))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => None,
    };
    if config.urls.is_empty() {
        return Err(AmqpError::Config("no broker is named: set `urls = [\"amqp://host:5672\"]`".into()));
    }
    let mut endpoints = vec![];
    for (number, url) in config.urls.iter().enumerate() {
        // The text may hold a password: the message says which one, not what it reads.
        let mut endpoint = parse_url(url.expose())
            .map_err(|reason| AmqpError::Config(format!("broker URL number {}: {reason}", number + 1)))?;
        if let Some(user) = &config.username {
            endpoint.user.clone_from(user);
        }
        if let Some(password) = &password {
            endpoint.password.clone_from(password);
        }
        if let Some(virtual_host) = &config.virtual_host {
            endpoint.virtual_host.clone_from(virtual_host);
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// `amqp[s]://[user[:password]@]host[:port][/vhost]`; no virtual host, or an empty one, is `/`. User and password are
/// `guest` unless given.
pub fn parse_url(url: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it must begin with amqp:// or amqps://")?;
    let tls = match scheme {
        "amqp" => false,
        "amqps" => true,
        _ => return Err("it must begin with amqp:// or amqps://".into()),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, address) = authority.rsplit_once('@').map_or((None, authority), |(u, a)| (Some(u), a));
    let (user, password) = match user_info.map(|u| u.split_once(':').unwrap_or((u, ""))) {
        Some((user, password)) => (decoded(user)?, decoded(password)?),
        None => ("guest".to_owned(), "guest".to_owned()),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the `]` after the IPv6 address is missing")?;
            (host, port.strip_prefix(':'))
        }
        None => address.split_once(':').map_or((address, None), |(h, p)| (h, Some(p))),
    };
    let port = match port {
        Some(text) => text.parse().map_err(|_| "the port is not a number up to 65535")?,
        None if tls => 5671,
        None => 5672,
    };
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    let virtual_host = if path.is_empty() { "/".to_owned() } else { decoded(path)? };
    Ok(Endpoint { host: decoded(host)?, port, tls, user, password, virtual_host })
}

fn decoded(text: &str) -> Result<String, String> {
    Ok(percent_decode_str(text).decode_utf8().map_err(|_| "a part of it is not UTF-8")?.into_owned())
}

/// A byte stream, plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection with its channel, in confirm mode.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    /// Bytes read beyond the last frame taken.
    pub input: BytesMut,
    pub frame_max: usize,
    /// Agreed interval; zero: none.
    pub heartbeat: Duration,
    pub identity: Identity,
    pub endpoint: String,
    pub blocked: bool,
}

/// Tries the endpoints in order and returns the first that lets us in. A refusal that only an operator can lift ends the
/// search: all endpoints are one cluster with one set of users.
pub async fn connect(config: &RabbitmqConfig, name: &str) -> Result<Connection, (AmqpError, Identity)> {
    let endpoints = endpoints(config).map_err(|e| (e, Identity::default()))?;
    let mut last = None;
    for endpoint in endpoints {
        let limit = config.connect_timeout;
        let attempt = tokio::time::timeout(limit, open(config, &endpoint, name)).await;
        let error = match attempt {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => AmqpError::Timeout { doing: format!("connect to {endpoint}"), limit_s: limit.as_secs_f32() },
        };
        let refused = matches!(&error, AmqpError::Connection(close) if matches!(close.code, 403 | 530));
        tracing::debug!(%endpoint, %error, "broker endpoint not usable");
        last = Some((error, endpoint.identity()));
        if refused {
            break;
        }
    }
    Err(last.expect("there is at least one endpoint"))
}

async fn open(config: &RabbitmqConfig, endpoint: &Endpoint, name: &str) -> Result<Connection, AmqpError> {
    let doing = || format!("connect to {endpoint}");
    let tcp = TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(AmqpError::io(doing()))?;
    tune_socket(&tcp).map_err(AmqpError::io(doing()))?;
    let stream: Box<dyn Stream> = if endpoint.tls {
        let options = TlsOptions { verify: Verify::Full, root_cert: config.ca_file.clone(), ..TlsOptions::default() };
        let wrapped = tls::connect(&options, &endpoint.host, tcp).await;
        Box::new(wrapped.map_err(|source| AmqpError::Tls { endpoint: endpoint.to_string(), source })?)
    } else {
        Box::new(tcp)
    };
    let mut connection = Connection {
        stream,
        input: BytesMut::with_capacity(4096),
        frame_max: FRAME_MAX as usize,
        heartbeat: config.heartbeat,
        identity: endpoint.identity(),
        endpoint: endpoint.to_string(),
        blocked: false,
    };
    connection.handshake(endpoint, config.heartbeat, name).await?;
    connection.call(CHANNEL, "channel.open-ok", |w| w.method(CHANNEL, 20, 10, |w| w.short(""))).await?;
    connection.call(CHANNEL, "confirm.select-ok", |w| w.method(CHANNEL, 85, 10, |w| w.u8(0))).await?;
    Ok(connection)
}

/// No Nagle. No TCP_USER_TIMEOUT: Linux counts it also while the peer answers with a closed window, which is what a
/// broker under an alarm does for minutes (seen to reset a blocked connection). Heartbeats notice a dead peer; keepalive
/// probes do where heartbeats are off.
fn tune_socket(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    socket2::SockRef::from(tcp).set_tcp_keepalive(&probes)
}

impl Connection {
    /// AMQP 0-9-1 specification section 2.2.4: start, tune, open.
    async fn handshake(&mut self, endpoint: &Endpoint, heartbeat: Duration, name: &str) -> Result<(), AmqpError> {
        self.write(frame::PROTOCOL_HEADER).await?;
        let mechanisms = match self.reply(0).await? {
            Method::Start { mechanisms } => mechanisms,
            other => return Err(unexpected(&other, "connection.start")),
        };
        if !mechanisms.split(' ').any(|m| m == "PLAIN") {
            let text =
                format!("the broker offers no PLAIN log-in, only `{mechanisms}`: enable it in its auth_mechanisms");
            return Err(AmqpError::Config(text));
        }
        let mut out = BytesMut::new();
        Writer(&mut out).method(0, 10, 11, |w| {
            client_properties(w, name);
            w.short("PLAIN");
            w.long(format!("\0{}\0{}", endpoint.user, endpoint.password).as_bytes());
            w.short("en_US");
        });
        self.write(&out).await?;
        let (frame_max, theirs) = match self.reply(0).await? {
            Method::Tune { frame_max, heartbeat, .. } => (frame_max, heartbeat),
            other => return Err(unexpected(&other, "connection.tune")),
        };
        let frame_max = if frame_max == 0 { FRAME_MAX } else { frame_max.min(FRAME_MAX) };
        let heartbeat = agreed_heartbeat(heartbeat, theirs);
        out.clear();
        let mut writer = Writer(&mut out);
        writer.method(0, 10, 31, |w| {
            w.u16(1);
            w.u32(frame_max);
            w.u16(heartbeat);
        });
        writer.method(0, 10, 40, |w| {
            w.short(&endpoint.virtual_host);
            w.short("");
            w.u8(0);
        });
        self.frame_max = frame_max as usize;
        self.heartbeat = Duration::from_secs(heartbeat.into());
        self.write(&out).await?;
        match self.reply(0).await? {
            Method::OpenOk => Ok(()),
            other => Err(unexpected(&other, "connection.open-ok")),
        }
    }

    /// Sends one method and waits for its answer on `channel`. Not for use while messages are in flight.
    pub async fn call(
        &mut self,
        channel: u16,
        expected: &'static str,
        method: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Method, AmqpError> {
        let mut out = BytesMut::new();
        method(&mut Writer(&mut out));
        self.write(&out).await?;
        let answer = self.reply(channel).await?;
        match answer {
            Method::Other { .. } | Method::Ack { .. } | Method::Nack { .. } => Err(unexpected(&answer, expected)),
            answer => Ok(answer),
        }
    }

    /// The channel was closed by the broker: answers, and opens it again on the same connection. Only for set-up: a
    /// publisher never goes on after a close.
    pub async fn reopen_channel(&mut self) -> Result<(), AmqpError> {
        let mut out = BytesMut::new();
        Writer(&mut out).method(CHANNEL, 20, 41, |_| {});
        self.write(&out).await?;
        self.call(CHANNEL, "channel.open-ok", |w| w.method(CHANNEL, 20, 10, |w| w.short(""))).await?;
        self.call(CHANNEL, "confirm.select-ok", |w| w.method(CHANNEL, 85, 10, |w| w.u8(0))).await?;
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), AmqpError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match written.await {
            Ok(()) => Ok(()),
            // A reset can overtake the close frame: what the socket still holds may name the reason.
            Err(error) => Err(match self.reply(0).await {
                Err(reason @ AmqpError::Connection(_)) => reason,
                _ => AmqpError::io(format!("write to {}", self.endpoint))(error),
            }),
        }
    }

    /// The next method for `channel`; closes, of the channel or the connection, are errors.
    async fn reply(&mut self, channel: u16) -> Result<Method, AmqpError> {
        loop {
            match frame::decode(&mut self.input, self.frame_max)? {
                Some(Frame::Method { method: Method::Close(close), .. }) => return Err(AmqpError::Connection(close)),
                Some(Frame::Method { method: Method::ChannelClose(close), .. }) => {
                    return Err(AmqpError::Channel(close));
                }
                Some(Frame::Method { method: Method::Blocked { .. }, .. }) => self.blocked = true,
                Some(Frame::Method { method: Method::Unblocked, .. }) => self.blocked = false,
                Some(Frame::Method { channel: at, method }) if at == channel => return Ok(method),
                Some(_) => {}
                None => {
                    let read = self.stream.read_buf(&mut self.input).await;
                    if read.map_err(AmqpError::io(format!("read from {}", self.endpoint)))? == 0 {
                        return Err(AmqpError::Eof);
                    }
                }
            }
        }
    }

    /// Says goodbye within a moment: the answer is not worth waiting for, and a blocked broker gives none.
    pub async fn say_goodbye(&mut self) {
        let mut out = BytesMut::new();
        Writer(&mut out).method(0, 10, 50, |w| {
            w.u16(200);
            w.short("done");
            w.u16(0);
            w.u16(0);
        });
        let farewell = async {
            self.write(&out).await?;
            if !self.blocked {
                while !matches!(self.reply(0).await?, Method::CloseOk) {}
            }
            Ok::<_, AmqpError>(())
        };
        // The outcome changes nothing: everything that counts was confirmed before.
        let _ = tokio::time::timeout(Duration::from_millis(500), farewell).await;
    }
}

/// The shorter of the two wishes, whole seconds; 0 (none) only if both say so.
fn agreed_heartbeat(ours: Duration, theirs: u16) -> u16 {
    let ours = u16::try_from(ours.as_secs_f64().ceil() as u64).unwrap_or(u16::MAX);
    if ours == 0 || theirs == 0 { ours.max(theirs) } else { ours.min(theirs) }
}

/// Without `connection.blocked` an alarm would show only as a socket that is not read.
fn client_properties(w: &mut Writer<'_>, name: &str) {
    w.sized(|w| {
        w.text_field("product", "Tailwater");
        w.text_field("version", env!("CARGO_PKG_VERSION"));
        w.text_field("platform", "Rust");
        w.text_field("connection_name", name);
        w.short("capabilities");
        w.u8(b'F');
        w.sized(|w| {
            for capability in ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"]
            {
                w.bool_field(capability, true);
            }
        });
    });
}

fn unexpected(method: &Method, expected: &'static str) -> AmqpError {
    let (class, method) = match method {
        Method::Other { class, method } => (*class, *method),
        Method::Ack { .. } => (60, 80),
        Method::Nack { .. } => (60, 120),
        _ => (0, 0),
    };
    AmqpError::Unexpected { class, method, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    fn parsed(url: &str) -> (String, String, String, String, bool) {
        let e = parse_url(url).unwrap();
        (e.to_string(), e.user, e.password, e.virtual_host, e.tls)
    }

    #[test]
    fn urls_as_people_write_them() {
        let table = [
            ("amqp://h", ("h:5672", "guest", "guest", "/", false)),
            ("amqps://h", ("h:5671", "guest", "guest", "/", true)),
            ("amqp://u:p%40ss@h:1/%2f", ("h:1", "u", "p@ss", "/", false)),
            ("amqp://u:p@h:1/", ("h:1", "u", "p", "/", false)),
            ("amqp://u@[::1]:5673/team?heartbeat=5", ("[::1]:5673", "u", "", "team", false)),
        ];
        for (url, (address, user, password, virtual_host, tls)) in table {
            let expected = (address.to_owned(), user.to_owned(), password.to_owned(), virtual_host.to_owned(), tls);
            assert_eq!(parsed(url), expected, "{url}");
        }
        for url in ["h:5672", "http://h", "amqp://", "amqp://h:port", "amqp://[::1:5"] {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_is_in_no_error() {
        let urls = vec![Secret::new("amqp://u:sesame@h:badport")];
        let error = endpoints(&RabbitmqConfig { urls, ..RabbitmqConfig::default() }).err().unwrap().to_string();
        assert!(!error.contains("sesame") && error.contains("number 1"), "{error}");
    }

    #[test]
    fn the_settings_beside_the_url_win() {
        let config = RabbitmqConfig {
            urls: vec![Secret::new("amqp://a:b@h/x")],
            username: Some("relay".into()),
            password: Some(Secret::new("s")),
            virtual_host: Some("v".into()),
            ..RabbitmqConfig::default()
        };
        let endpoint = &endpoints(&config).unwrap()[0];
        assert_eq!((&*endpoint.user, &*endpoint.password, &*endpoint.virtual_host), ("relay", "s", "v"));
    }

    #[test]
    fn the_shorter_heartbeat_is_agreed() {
        for (ours_ms, theirs, agreed) in [(10_000, 60, 10), (10_000, 2, 2), (0, 60, 60), (10_000, 0, 10), (500, 60, 1)]
        {
            assert_eq!(agreed_heartbeat(Duration::from_millis(ours_ms), theirs), agreed);
        }
    }
}
