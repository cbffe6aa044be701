//! What librdkafka tells us, collected for the publisher: deliveries, errors, log lines.
//!
//! Its callbacks run on the polling thread; the publisher is woken when there is something new.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// One error of a client, in librdkafka's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    pub code: RDKafkaErrorCode,
    pub reason: String,
}

/// Shared by a client's callbacks and its owner.
#[derive(Debug, Default)]
pub struct Events {
    inner: Mutex<Collected>,
    pub changed: Notify,
}

#[derive(Debug, Default)]
pub struct Collected {
    /// Index of the message, and why it was not delivered.
    pub deliveries: Vec<(usize, Option<RDKafkaErrorCode>)>,
    /// The cluster answered.
    pub ready: bool,
    /// Logging in or TLS failed, or the producer is broken for good: the first such error.
    pub broken: Option<ClientError>,
    /// No broker can be reached: the last error.
    pub away: Option<ClientError>,
    /// The latest error that named a cause: more telling than "all brokers are down".
    pub cause: Option<ClientError>,
}

impl Events {
    pub fn lock(&self) -> MutexGuard<'_, Collected> {
        self.inner.lock().expect("no panic while the lock is held")
    }

    /// The cluster answered just now.
    pub fn answered(&self) {
        let mut events = self.lock();
        let news = !events.ready || events.away.is_some();
        events.ready = true;
        events.away = None;
        drop(events);
        if news {
            self.changed.notify_one();
        }
    }

    fn error(&self, code: RDKafkaErrorCode, reason: &str) {
        let error = ClientError { code, reason: reason.to_owned() };
        let mut events = self.lock();
        match code {
            RDKafkaErrorCode::AllBrokersDown => {
                let cause = events.cause.clone();
                events.away = Some(cause.unwrap_or(error));
            }
            RDKafkaErrorCode::Fatal
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism => {
                events.cause = Some(error.clone());
                events.broken.get_or_insert(error);
            }
            // a handshake may also break off with its connection; a certificate stays as wrong as it is
            RDKafkaErrorCode::SSL if reason.contains("certificate") => {
                events.cause = Some(error.clone());
                events.broken.get_or_insert(error);
            }
            _ => events.cause = Some(error),
        }
        drop(events);
        self.changed.notify_one();
    }
}

/// The callbacks of one client.
#[derive(Debug)]
pub struct Context {
    pub events: Arc<Events>,
}

impl ClientContext for Context {
    /// librdkafka logs neither passwords nor records. Its warnings are details here: what matters is said by us.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(target: "librdkafka", facility, message, "client library");
            }
            _ => tracing::debug!(target: "librdkafka", facility, message, "client library"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
        self.events.error(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown), reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = match result {
            Ok(message) => {
                tracing::trace!(partition = message.partition(), "delivered");
                None
            }
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        let mut events = self.events.lock();
        events.deliveries.push((index, outcome));
        let first = events.deliveries.len() == 1;
        if outcome.is_none() {
            events.away = None;
        }
        drop(events);
        if first {
            self.events.changed.notify_one();
        }
    }
}
