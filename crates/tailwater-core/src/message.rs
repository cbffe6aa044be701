//! What a sink publishes: the result of routing one change.
//!
//! Not here: how a broker lays it out on the wire (sinks), how a column becomes bytes (encode).

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// One event to publish. Cheap to clone: all parts are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The outbox id, else a hash of (system identifier, commit LSN, commit time, ordinal). A replay repeats it.
    pub id: MessageId,
    /// Destination: topic of Kafka, routing key (or exchange) of RabbitMQ.
    pub topic: Arc<str>,
    /// What kind of event, where the outbox row says so: AMQP property `type`.
    pub event_type: Option<Arc<str>>,
    /// Order is kept among messages of one key. `None`: ordered with nothing but by chance.
    pub key: Option<Bytes>,
    pub headers: Headers,
    /// MIME type of `payload`.
    pub content_type: &'static str,
    /// `None` is a tombstone: no bytes at all.
    pub payload: Option<Bytes>,
    /// Explicit Kafka partition.
    pub partition: Option<i32>,
    pub timestamp: Timestamp,
}

impl Message {
    /// Bytes this message occupies while it waits, close enough for a budget.
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self.headers.0.iter().map(|h| h.name.len() + h.value.len() + 48).sum();
        192 + self.key.as_ref().map_or(0, Bytes::len) + self.payload.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Unique per event, repeated by every re-sending of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub Arc<str>);

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// µs since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// In the order in which they were placed; a name may occur twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(pub Vec<Header>);

impl Headers {
    pub fn push(&mut self, name: impl Into<Arc<str>>, value: HeaderValue) {
        self.0.push(Header { name: name.into(), value });
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub name: Arc<str>,
    pub value: HeaderValue,
}

/// A header's plain value with its type, for brokers whose headers are typed.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// UTF-8 text.
    Text(Bytes),
    Bytes(Bytes),
}

impl HeaderValue {
    /// Length of the value's bytes on the wire (8 for numbers).
    #[allow(clippy::len_without_is_empty)] // a length in bytes, not a container
    pub fn len(&self) -> usize {
        match self {
            HeaderValue::Text(b) | HeaderValue::Bytes(b) => b.len(),
            _ => 8,
        }
    }
}
