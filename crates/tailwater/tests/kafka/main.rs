//! What the sink contract does not say and Kafka does: partitions, topics, sizes, log-in, certificates.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)] // a panic here is a failed test, with its place

mod exactly_once;
mod login;
mod records;
mod topics;

use bytes::Bytes;
use std::io::Write;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tailwater::config::KafkaConfig;
use tailwater_core::{Failure, Headers, Message, MessageId, Publisher, Rejection, Sink, Slice, Timestamp};
use tailwater_kafka::{KafkaSink, Observer, Unobserved};
use testbed::Kafka;

const LIMIT: Duration = Duration::from_secs(30);

/// Seen and away, as a sink reported it.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn seen(&self) {}
    fn gone(&self) {}
    fn away(&self, _: u32, error: &str) {
        self.0.lock().unwrap().push(format!("away: {error}"));
    }
    fn back(&self, _: u32) {
        self.0.lock().unwrap().push("back".into());
    }
}

fn config(broker: &Kafka) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: vec![broker.bootstrap()],
        connect_timeout: Duration::from_secs(20),
        ..KafkaConfig::default()
    }
}

fn sink(config: KafkaConfig) -> KafkaSink {
    KafkaSink::new(config, "test", Arc::new(Unobserved)).unwrap()
}

fn message(id: &str, topic: &str, key: &str, payload: &[u8]) -> Message {
    Message {
        id: MessageId(id.into()),
        topic: topic.into(),
        event_type: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: Headers::default(),
        content_type: "application/json",
        payload: Some(Bytes::copy_from_slice(payload)),
        partition: None,
        timestamp: Timestamp(1_700_000_000_123_456),
    }
}

/// Publishes through a publisher of its own; what was refused, by index. Refused ones are released.
async fn publish(sink: &KafkaSink, messages: &[Message]) -> Vec<Rejection> {
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: messages.into(), upto: None });
    settle(publisher.as_mut(), messages.len()).await.unwrap()
}

async fn settle(publisher: &mut dyn Publisher, count: usize) -> Result<Vec<Rejection>, Failure> {
    let (mut durable, mut rejected) = (0, vec![]);
    while durable < count {
        let settled = tokio::time::timeout(LIMIT, publisher.drive()).await.expect("settles in time")?;
        durable += settled.durable;
        for rejection in settled.rejected {
            publisher.release(rejection.index);
            rejected.push(rejection);
        }
    }
    Ok(rejected)
}

/// What was logged at `warn` by all tests of this file since [`keep_log`].
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::WARN).with_writer(|| Log).init();
    });
}

/// Waits for a line of the log that holds all of `parts`, while the publisher does what it does when idle.
async fn warns(publisher: &mut dyn Publisher, parts: &[&str]) {
    let limit = tokio::time::Instant::now() + LIMIT;
    loop {
        let text = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
        if text.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
            return;
        }
        assert!(tokio::time::Instant::now() < limit, "no line with {parts:?} in:\n{text}");
        let idle = tokio::time::timeout(Duration::from_millis(200), publisher.drive()).await;
        assert!(idle.is_err(), "nothing to report: {idle:?}");
    }
}
