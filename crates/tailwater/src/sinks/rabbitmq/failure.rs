//! What can go wrong with a broker, and the one place that decides what to do then.
//!
//! Unknown → retry: waiting is safe, skipping is not. Log-in, permission, a virtual host that is not there → an operator
//! must act, and reads the command to type. What a single message is to blame for is no failure but a rejection
//! ([`blame`]). Codes and texts: observed on RabbitMQ 3.10, AMQP 0-9-1 specification section 1.2.

use super::frame::{Close, FrameError};
use super::window::UnknownTag;
use crate::net::tls::TlsError;
use std::time::Duration;
use tailwater_core::Failure;

/// Everything that ends a connection, a channel or an attempt to get one.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// What was being done, as a verb phrase with the endpoint: `connect to 127.0.0.1:5672`.
    #[error("{doing}")]
    Io { doing: String, source: std::io::Error },
    #[error("{doing}: no answer within {limit_s} s")]
    Timeout { doing: String, limit_s: f32 },
    #[error("the broker closed the connection without a word")]
    Eof,
    #[error("nothing was heard from the broker for {0:?}: the connection is taken for dead")]
    Silent(Duration),
    #[error("read a frame")]
    Frame(#[from] FrameError),
    #[error("match a confirm")]
    Tag(#[from] UnknownTag),
    #[error("TLS to {endpoint}")]
    Tls { endpoint: String, source: TlsError },
    #[error("the broker closed the connection: {} {}", .0.code, .0.text)]
    Connection(Close),
    #[error("the broker closed the channel: {} {}", .0.code, .0.text)]
    Channel(Close),
    /// The offender is known and reported as a rejection; the rest goes again over a new channel.
    #[error("the broker closed the channel over one message: {} {}", .0.code, .0.text)]
    OneRefused(Close),
    /// Sent again one by one, the offender is the only open message.
    #[error("the broker refused one of {open} messages without saying which: {} {}", .close.code, .close.text)]
    SomeoneRefused { close: Close, open: usize },
    #[error(
        "{count} messages were refused (basic.nack): a queue they are bound to is full and says so (overflow = reject-publish)"
    )]
    Nacked { count: usize },
    #[error("the broker returned a message that is not in flight (message_id {0:?})")]
    UnknownReturn(String),
    #[error("the broker answered with method ({class}, {method}) where {expected} was due")]
    Unexpected { class: u16, method: u16, expected: &'static str },
    #[error("{0}")]
    Config(String),
}

impl AmqpError {
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> AmqpError {
        let doing = doing.into();
        move |source| AmqpError::Io { doing, source }
    }
}

/// Who we are at the broker: names for hints. No secret in it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub user: String,
    pub virtual_host: String,
}

/// The one table: error → what the caller does.
pub fn classify(error: AmqpError, identity: &Identity) -> Failure {
    let Identity { user, virtual_host } = identity;
    let hint = match &error {
        AmqpError::Connection(close) => match close.code {
            403 => Some(format!(
                "the broker does not accept the password of user `{user}`: correct it, or `rabbitmqctl change_password {user}` \
                 (a user `guest` may log in from the broker's own machine only)"
            )),
            530 if close.text.contains("not found") => Some(format!(
                "make the virtual host or correct its name: rabbitmqctl add_vhost '{virtual_host}' && {}",
                grant(identity)
            )),
            530 => Some(format!("let the user in: {}", grant(identity))),
            _ => None,
        },
        AmqpError::Channel(close) => match close.code {
            403 if close.text.contains("topic") => Some(format!(
                "allow the topic: rabbitmqctl set_topic_permissions -p '{virtual_host}' {user} EXCHANGE '.*' '.*'"
            )),
            403 => Some(grant(identity)),
            // A passive or active declare that contradicts what is there (a publish's 406 is a rejection, see `blame`).
            406 if close.cause.0 == 40 || close.cause.0 == 50 => Some(
                "what exists differs from the configuration: change the configuration to it, or delete and declare it anew \
                 by hand when it is empty; `tailwater init --dry-run` shows the difference"
                    .to_owned(),
            ),
            _ => None,
        },
        AmqpError::Tls { source, .. } if source.is_permanent() => {
            Some("name the authority that signed the broker's certificate in `ca_file`, and the host as in the certificate".to_owned())
        }
        AmqpError::Config(_) => Some("correct the sink's configuration".to_owned()),
        _ => None,
    };
    match hint {
        Some(hint) => Failure::fatal(hint, error),
        None => Failure::Retry { after: pause(&error), source: Box::new(error) },
    }
}

/// The peer's condition lasts: come back later than after a cut cable.
fn pause(error: &AmqpError) -> Option<Duration> {
    match error {
        AmqpError::Nacked { .. } => Some(Duration::from_secs(1)),
        AmqpError::Channel(close) if close.code == 404 => Some(Duration::from_secs(1)),
        _ => None,
    }
}

fn grant(identity: &Identity) -> String {
    let Identity { user, virtual_host } = identity;
    format!(
        "rabbitmqctl set_permissions -p '{virtual_host}' {user} '.*' '.*' '.*' (publishing needs the second, write)"
    )
}

/// Which of the open messages a channel close is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Blame {
    /// No single message: the whole channel or its destination.
    Nobody,
    /// Some message whose body has this length.
    BodyLength(usize),
    /// Some message to this exchange.
    Exchange(String),
    /// Some message to this exchange with this routing key.
    Address { exchange: String, routing_key: String },
    /// A message, but the text does not say which.
    Someone,
}

/// Reads the close of a channel on which only publishes were outstanding. `exchange`: where everything goes, when the
/// configuration names it; then its absence or a missing right is nobody's fault.
pub fn blame(close: &Close, exchange: Option<&str>) -> Blame {
    if close.cause != (60, 40) {
        return Blame::Nobody;
    }
    let quoted: Vec<&str> = close.text.split('\'').skip(1).step_by(2).collect();
    match close.code {
        406 => match close.text.split("message size ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            Some(length) => Blame::BodyLength(length),
            None => Blame::Someone,
        },
        404 if exchange.is_none() => match quoted.first() {
            Some(name) => Blame::Exchange((*name).to_owned()),
            None => Blame::Someone,
        },
        // `access to topic 'K' in exchange 'E' in vhost '/' refused for user 'U'`; a key may hold quotes itself.
        403 if close.text.contains("access to topic ") => match topic_refused(&close.text) {
            Some((routing_key, exchange)) => Blame::Address { exchange, routing_key },
            None => Blame::Someone,
        },
        403 if exchange.is_none() && close.text.contains("internal exchange") => match quoted.first() {
            Some(name) => Blame::Exchange((*name).to_owned()),
            None => Blame::Someone,
        },
        _ => Blame::Nobody,
    }
}

fn topic_refused(text: &str) -> Option<(String, String)> {
    let rest = text.split_once("access to topic '")?.1;
    let (key, rest) = rest.rsplit_once("' in exchange '")?;
    let (exchange, _) = rest.rsplit_once("' in vhost '")?;
    Some((key.to_owned(), exchange.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, text: &str, cause: (u16, u16)) -> Close {
        Close { code, text: text.into(), cause }
    }

    #[test]
    fn what_each_error_leads_to() {
        let identity = Identity { user: "relay".into(), virtual_host: "/".into() };
        let connection = |code, text: &str| AmqpError::Connection(close(code, text, (0, 0)));
        let channel = |code, text: &str, cause| AmqpError::Channel(close(code, text, cause));
        let table: Vec<(AmqpError, Option<&str>)> = vec![
            (
                connection(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN"),
                Some("change_password relay"),
            ),
            (connection(530, "NOT_ALLOWED - vhost nope not found"), Some("add_vhost '/'")),
            (
                connection(530, "NOT_ALLOWED - access to vhost 'x' refused for user 'relay'"),
                Some("set_permissions -p '/' relay"),
            ),
            (connection(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"), None),
            (connection(541, "INTERNAL_ERROR"), None),
            (connection(501, "FRAME_ERROR"), None),
            (
                channel(403, "ACCESS_REFUSED - access to exchange 'e1' in vhost '/' refused for user 'lim'", (60, 40)),
                Some("set_permissions"),
            ),
            (
                channel(
                    403,
                    "ACCESS_REFUSED - access to topic 'a' in exchange 'e' in vhost '/' refused for user 'lim'",
                    (60, 40),
                ),
                Some("set_topic_permissions"),
            ),
            (channel(404, "NOT_FOUND - no exchange 'events' in vhost '/'", (60, 40)), None),
            (channel(404, "NOT_FOUND - no exchange 'events' in vhost '/'", (40, 10)), None),
            (channel(406, "PRECONDITION_FAILED - inequivalent arg 'durable'", (50, 10)), Some("init --dry-run")),
            (
                channel(
                    406,
                    "PRECONDITION_FAILED - message size 10001 is larger than configured max size 10000",
                    (60, 40),
                ),
                None,
            ),
            (channel(599, "SOMETHING_NEW", (60, 40)), None),
            (AmqpError::OneRefused(close(403, "ACCESS_REFUSED - access to topic 'a'", (60, 40))), None),
            (AmqpError::SomeoneRefused { close: close(406, "PRECONDITION_FAILED", (60, 40)), open: 2 }, None),
            (AmqpError::Eof, None),
            (AmqpError::Silent(Duration::from_secs(20)), None),
            (AmqpError::Nacked { count: 3 }, None),
            (AmqpError::Frame(FrameError::NoEnd), None),
            (AmqpError::Config("no url".into()), Some("configuration")),
            (
                AmqpError::Tls { endpoint: "h:1".into(), source: TlsError::Refused("UnknownIssuer".into()) },
                Some("ca_file"),
            ),
            (
                AmqpError::Io { doing: "connect to h:1".into(), source: std::io::ErrorKind::ConnectionRefused.into() },
                None,
            ),
        ];
        for (error, expected) in table {
            let shown = error.to_string();
            match (classify(error, &identity), expected) {
                (Failure::Retry { .. }, None) => {}
                (Failure::Fatal { hint, .. }, Some(part)) => assert!(hint.contains(part), "{shown}: {hint}"),
                (got, expected) => panic!("{shown}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn whom_a_closed_channel_blames() {
        let publish = (60, 40);
        let too_large =
            close(406, "PRECONDITION_FAILED - message size 10001 is larger than configured max size 10000", publish);
        assert_eq!(blame(&too_large, Some("events")), Blame::BodyLength(10001));
        let missing = close(404, "NOT_FOUND - no exchange 'nope' in vhost '/'", publish);
        assert_eq!(blame(&missing, None), Blame::Exchange("nope".into()));
        assert_eq!(blame(&missing, Some("nope")), Blame::Nobody, "nothing can be published: no message is to blame");
        let topic = "ACCESS_REFUSED - access to topic 'it's' in exchange 'e2' in vhost '/' refused for user 'lim'";
        let address = Blame::Address { exchange: "e2".into(), routing_key: "it's".into() };
        assert_eq!(blame(&close(403, topic, publish), Some("e2")), address);
        let write = "ACCESS_REFUSED - access to exchange 'e1' in vhost '/' refused for user 'lim'";
        assert_eq!(blame(&close(403, write, publish), None), Blame::Nobody);
        let headers = r#"PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,"CC",longstr}"#;
        assert_eq!(blame(&close(406, headers, publish), Some("e")), Blame::Someone);
        assert_eq!(blame(&close(406, "inequivalent arg", (50, 10)), Some("e")), Blame::Nobody);
    }
}
