//! A replication connection (protocol, "Streaming Replication Protocol"): start-up, authentication, simple queries.
//!
//! Not here: the stream itself (`stream.rs`) and what is asked of slots (`slot.rs`).

use super::failure::{Error, ServerError};
use super::socket::{Socket, attempts, dial};
use super::target::{Endpoint, Session, Target};
use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Session settings that change the text of values, pinned (observed on PostgreSQL 15 and 18: a start-up parameter beats
/// `ALTER ROLE … SET`); and time-outs that an operator may have set for people, not for a relay.
pub const PINNED: &[(&str, &str)] = &[
    ("application_name", "tailwater"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

const READ_BYTES: usize = 64 << 10;

/// A message of the server; what `postgres-protocol` does not know is kept apart.
pub(super) enum Incoming {
    Known(Message),
    /// `CopyBothResponse`: the stream begins.
    CopyBoth,
}

/// One connection with `replication=database`.
pub struct Client {
    socket: Socket,
    read: BytesMut,
    write: BytesMut,
    /// Process id of the walsender.
    pub pid: i32,
    secret: i32,
    /// As the server reports it, e.g. `15.18 (Debian …)`.
    pub server_version: String,
    /// Which host answered.
    pub endpoint: Endpoint,
}

impl Client {
    /// Connects to the first host that is what we want.
    pub async fn connect(target: &Target) -> Result<Client, Error> {
        each_host(target, async |target, socket, endpoint| {
            let mut client = Client::start_up(target, socket, endpoint).await?;
            client.check_session(target.session).await?;
            Ok(client)
        })
        .await
    }

    async fn start_up(target: &Target, socket: Socket, endpoint: Endpoint) -> Result<Client, Error> {
        let mut client = Client {
            socket,
            read: BytesMut::with_capacity(READ_BYTES),
            write: BytesMut::new(),
            pid: 0,
            secret: 0,
            server_version: String::new(),
            endpoint,
        };
        let own = [("user", target.user.as_str()), ("database", target.dbname.as_str()), ("replication", "database")];
        frontend::startup_message(own.into_iter().chain(PINNED.iter().copied()), &mut client.write)?;
        client.flush().await?;
        client.authenticate(target).await?;
        loop {
            match client.message().await? {
                Incoming::Known(Message::BackendKeyData(body)) => {
                    client.pid = body.process_id();
                    client.secret = body.secret_key();
                }
                Incoming::Known(Message::ParameterStatus(body)) if body.name()? == "server_version" => {
                    client.server_version = body.value()?.to_owned();
                }
                Incoming::Known(Message::ParameterStatus(_) | Message::NoticeResponse(_)) => {}
                Incoming::Known(Message::ReadyForQuery(_)) => return Ok(client),
                Incoming::Known(Message::ErrorResponse(body)) => return Err(server_error(body.fields())),
                _ => return Err(Error::Protocol("a message that does not belong to the start-up".into())),
            }
        }
    }

    async fn authenticate(&mut self, target: &Target) -> Result<(), Error> {
        let password = || target.password.as_ref().map(|p| p.expose().as_bytes()).ok_or(Error::NoPassword);
        loop {
            let Incoming::Known(message) = self.message().await? else {
                return Err(Error::Protocol("a stream before authentication".into()));
            };
            match message {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => frontend::password_message(password()?, &mut self.write)?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(target.user.as_bytes(), password()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.write)?;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> = body.mechanisms().map(|name| Ok(name.to_owned())).collect()?;
                    self.scram(password()?, &mechanisms).await?;
                    continue;
                }
                Message::ErrorResponse(body) => return Err(server_error(body.fields())),
                Message::NoticeResponse(_) => continue,
                _ => {
                    let what = "the server asks for a kind of authentication that is not supported: use scram-sha-256";
                    return Err(Error::Config(what.into()));
                }
            }
            self.flush().await?;
        }
    }

    /// SCRAM-SHA-256, bound to the TLS channel where there is one (protocol, "SASL Authentication").
    async fn scram(&mut self, password: &[u8], mechanisms: &[String]) -> Result<(), Error> {
        let has = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let end_point = self.socket.server_end_point();
        let (mechanism, binding) = match end_point {
            Some(data) if has(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(data)),
            // Saying "the server has none" is what uncovers somebody in between who struck it from the list.
            Some(_) if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if has(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => return Err(Error::Config(format!("the server offers only {mechanisms:?} for authentication"))),
        };
        let mut scram = ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.write)?;
        self.flush().await?;
        match self.message().await? {
            Incoming::Known(Message::AuthenticationSaslContinue(body)) => scram.update(body.data())?,
            Incoming::Known(Message::ErrorResponse(body)) => return Err(server_error(body.fields())),
            _ => return Err(Error::Protocol("authentication broken off".into())),
        }
        frontend::sasl_response(scram.message(), &mut self.write)?;
        self.flush().await?;
        match self.message().await? {
            Incoming::Known(Message::AuthenticationSaslFinal(body)) => Ok(scram.finish(body.data())?),
            Incoming::Known(Message::ErrorResponse(body)) => Err(server_error(body.fields())),
            _ => Err(Error::Protocol("authentication broken off".into())),
        }
    }

    async fn check_session(&mut self, wanted: Session) -> Result<(), Error> {
        let (sql, good, name) = match wanted {
            Session::Any => return Ok(()),
            Session::ReadWrite => ("SHOW transaction_read_only", "off", "read-write"),
            Session::Primary => ("SELECT pg_is_in_recovery()", "f", "primary"),
        };
        match self.query(sql).await?.first().and_then(|row| row.text(0)) {
            Some(answer) if answer == good => Ok(()),
            _ => Err(Error::WrongSession(self.endpoint.to_string(), name)),
        }
    }

    /// One simple query, all rows of all its statements. On an error of the server the connection stays usable unless the
    /// error was FATAL.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.send_query(sql).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.message().await {
                Ok(Incoming::Known(Message::DataRow(body))) => rows.push(Row::new(&body)?),
                Ok(Incoming::Known(Message::ErrorResponse(body))) => failed = Some(server_error(body.fields())),
                Ok(Incoming::Known(Message::ReadyForQuery(_))) => return failed.map_or(Ok(rows), Err),
                Ok(Incoming::Known(_)) => {}
                Ok(Incoming::CopyBoth) => return Err(Error::Protocol("a stream nobody asked for".into())),
                // After FATAL the server hangs up: what it said last is the reason.
                Err(error) => return Err(failed.unwrap_or(error)),
            }
        }
    }

    pub(super) async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        frontend::query(sql, &mut self.write)?;
        self.flush().await
    }

    /// The next message. Cancel-safe: half a message stays in the buffer.
    pub(super) async fn message(&mut self) -> Result<Incoming, Error> {
        loop {
            if let Some(message) = parse(&mut self.read)? {
                return Ok(message);
            }
            self.read_more().await?;
        }
    }

    /// Length of the next message, if the buffer holds all of it.
    pub(super) fn buffered(&self) -> Result<Option<usize>, Error> {
        Ok(frame_length(&self.read)?.filter(|length| self.read.len() >= *length))
    }

    /// Waits for more bytes. Cancel-safe.
    pub(super) async fn read_more(&mut self) -> Result<(), Error> {
        if self.read.capacity() - self.read.len() < READ_BYTES / 4 {
            self.read.reserve(READ_BYTES);
        }
        match self.socket.read_buf(&mut self.read).await? {
            0 => Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.socket.write_all_buf(&mut self.write).await?;
        Ok(self.socket.flush().await?)
    }

    /// For the stream: the socket, and what was read beyond `CopyBothResponse`.
    pub(super) fn into_parts(self) -> (Socket, BytesMut) {
        (self.socket, self.read)
    }

    /// Server's major version; 0 if it does not say.
    pub fn major_version(&self) -> u32 {
        let digits = self.server_version.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.server_version.len());
        self.server_version[..digits].parse().unwrap_or(0)
    }
}

/// Length of the frame at the front, its type byte included; `None` while its head is incomplete.
pub(super) fn frame_length(buffer: &[u8]) -> Result<Option<usize>, Error> {
    let Some(mut head) = buffer.get(1..5) else { return Ok(None) };
    match usize::try_from(head.get_i32()) {
        Ok(length) if length >= 4 => Ok(Some(1 + length)),
        _ => Err(Error::Protocol("a message with an impossible length".into())),
    }
}

fn parse(read: &mut BytesMut) -> Result<Option<Incoming>, Error> {
    if read.first() == Some(&b'W') {
        let Some(length) = frame_length(read)?.filter(|length| read.len() >= *length) else { return Ok(None) };
        read.advance(length);
        return Ok(Some(Incoming::CopyBoth));
    }
    Ok(Message::parse(read)?.map(Incoming::Known))
}

/// Tries host by host, attempt by attempt. What counts in the end: an error that may pass, if there was one.
pub(crate) async fn each_host<T>(
    target: &Target,
    open: impl AsyncFn(&Target, Socket, Endpoint) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut errors = Vec::new();
    for endpoint in &target.endpoints {
        for attempt in attempts(target.sslmode, endpoint) {
            let once = async {
                let socket = dial(target, endpoint, *attempt).await?;
                open(target, socket, endpoint.clone()).await
            };
            let error = match tokio::time::timeout(target.connect_timeout, once).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => error,
                Err(_) => Error::Timeout("the database did not accept the connection in time (connect_timeout)"),
            };
            // The other kind of connection is worth a try only if pg_hba.conf or TLS stood in the way.
            let other_kind = matches!(error, Error::Tls(_)) || error.code() == Some("28000");
            errors.push(error);
            if !other_kind {
                break;
            }
        }
    }
    let passing = errors.iter().position(|error| {
        matches!(
            error,
            Error::Connect(..) | Error::Io(_) | Error::Timeout(_) | Error::WrongSession(..) | Error::Protocol(_)
        )
    });
    match errors.len() {
        0 => Err(Error::Config("no host is configured".into())),
        count => Err(errors.swap_remove(passing.unwrap_or(count - 1))),
    }
}

/// A row of a simple query: every value as text.
#[derive(Debug)]
pub struct Row(Vec<Option<Bytes>>);

impl Row {
    fn new(body: &postgres_protocol::message::backend::DataRowBody) -> Result<Row, Error> {
        let buffer = body.buffer_bytes();
        let columns = body.ranges().map(|range| Ok(range.map(|range| buffer.slice(range)))).collect()?;
        Ok(Row(columns))
    }

    /// Column `index` as text; `None` for NULL, for what is no UTF-8, and for a column that is not there.
    pub fn text(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(index)?.as_ref()?).ok()
    }
}

/// The fields of an ErrorResponse or NoticeResponse.
pub(super) fn server_message(mut fields: ErrorFields<'_>) -> ServerError {
    let mut error = ServerError::default();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            // `V` is `S` untranslated and comes after it.
            b'S' | b'V' => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
    error
}

pub(super) fn server_error(fields: ErrorFields<'_>) -> Error {
    Error::Server(Box::new(server_message(fields)))
}
