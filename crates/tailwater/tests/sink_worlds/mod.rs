//! A sink with a reader at its other end and faults in between.
#![allow(dead_code, unused_imports)] // each test file uses its part

#[cfg(feature = "kafka")]
mod kafka;

use async_trait::async_trait;
use bytes::Bytes;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::config::RabbitmqConfig;
use tailwater::sinks::stdout::StdoutSink;
use tailwater_core::route::Compatibility;
use tailwater_core::{HeaderValue, Headers, Message, MessageId, Sink, Slice, Timestamp};
use testbed::{Proxy, eventually, shared_rabbitmq, unique};
use tokio::io::{AsyncReadExt, DuplexStream};

#[async_trait]
pub trait World: Send + Sync {
    fn sink(&self) -> Arc<dyn Sink>;
    /// Goes through.
    fn topic(&self) -> &str;
    /// Is refused by the peer; `None`: this one refuses nothing.
    fn refused_topic(&self) -> Option<&str>;
    /// Ids that arrived, in order; waits until there are `count` at least.
    async fn arrived(&self, count: usize) -> Vec<String> {
        self.arrived_payloads(count).await.into_iter().map(|(id, _)| id).collect()
    }
    /// The same with the payload's length in bytes.
    async fn arrived_payloads(&self, count: usize) -> Vec<(String, usize)>;
    /// After a cut or an absence a new publisher can be opened.
    fn comes_back(&self) -> bool;
    /// A cut is mended below the publisher, which never hears of it.
    fn mends_cuts(&self) -> bool {
        false
    }
    fn cut_after(&self, bytes: u64);
    fn away(&self);
    /// Takes nothing more, but does not go away either.
    fn hold(&self);
    fn back(&self);
}

pub fn message(id: &str, topic: &str, payload: Option<&[u8]>) -> Message {
    let mut headers = Headers::default();
    headers.push("id", HeaderValue::Text(Bytes::copy_from_slice(id.as_bytes())));
    Message {
        id: MessageId(id.into()),
        topic: topic.into(),
        event_type: None,
        key: Some(Bytes::from_static(b"key")),
        headers,
        content_type: "application/json",
        payload: payload.map(Bytes::copy_from_slice),
        partition: None,
        timestamp: Timestamp(1_700_000_000_000_000),
    }
}

pub fn slices(messages: &[Message], size: usize) -> Vec<Slice> {
    messages.chunks(size).map(|chunk| Slice { messages: chunk.into(), upto: None }).collect()
}

/// RabbitMQ behind a fault proxy: an exchange and a queue of its own.
pub struct Rabbit {
    pub proxy: Proxy,
    pub exchange: String,
    pub queue: String,
    pub broker: testbed::Rabbit,
    pub status: Arc<Status>,
}

impl Rabbit {
    pub async fn start() -> Self {
        let node = shared_rabbitmq().await;
        let broker = testbed::Rabbit::connect(node).await;
        let (exchange, queue) = (unique("events"), unique("queue"));
        broker.exchange(&exchange).await;
        broker.queue(&queue, &exchange, &["good.*"]).await;
        let proxy = Proxy::to(([127, 0, 0, 1], node.amqp_port()).into()).await;
        Rabbit { proxy, exchange, queue, broker, status: Arc::new(Status::new("test")) }
    }

    pub fn config(&self) -> RabbitmqConfig {
        RabbitmqConfig {
            urls: vec![Secret::new(format!("amqp://guest:guest@{}", self.proxy.addr()))],
            exchange: self.exchange.clone(),
            connect_timeout: Duration::from_secs(3),
            ..RabbitmqConfig::default()
        }
    }
}

#[async_trait]
impl World for Rabbit {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(RabbitmqSink::new(self.config(), Compatibility::Default, self.status.clone()))
    }

    fn topic(&self) -> &str {
        "good.topic"
    }

    fn refused_topic(&self) -> Option<&str> {
        Some("bad.topic")
    }

    async fn arrived_payloads(&self, count: usize) -> Vec<(String, usize)> {
        eventually(Duration::from_secs(20), || async {
            let there = self.broker.count(&self.queue).await as usize;
            testbed::note(there);
            (there >= count).then_some(())
        })
        .await;
        let all = self.broker.drain(&self.queue).await;
        all.into_iter().map(|m| (m.message_id.expect("every message has an id"), m.body.len())).collect()
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn cut_after(&self, bytes: u64) {
        self.proxy.cut_after(bytes);
    }

    fn away(&self) {
        self.proxy.refuse();
    }

    fn hold(&self) {
        self.proxy.blackhole();
    }

    fn back(&self) {
        self.proxy.restore();
    }
}

/// Standard output with a reader that can stop reading or go away.
pub struct Stdout {
    sink: Arc<StdoutSink>,
    state: Arc<Mutex<Reader>>,
}

struct Reader {
    lines: Vec<u8>,
    /// Reads no further than this.
    upto: u64,
    gone_at: u64,
}

impl Stdout {
    pub fn start() -> Self {
        let (theirs, ours) = tokio::io::duplex(16 << 10);
        let state = Arc::new(Mutex::new(Reader { lines: vec![], upto: u64::MAX, gone_at: u64::MAX }));
        tokio::spawn(read(ours, state.clone()));
        Stdout { sink: Arc::new(StdoutSink::to(Box::new(theirs))), state }
    }
}

async fn read(mut from: DuplexStream, state: Arc<Mutex<Reader>>) {
    let mut chunk = vec![0; 8192];
    loop {
        let (seen, upto, gone_at) = {
            let state = state.lock().unwrap();
            (state.lines.len() as u64, state.upto, state.gone_at)
        };
        if seen >= gone_at {
            return;
        }
        if seen >= upto {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => state.lock().unwrap().lines.extend_from_slice(&chunk[..n]),
        }
    }
}

#[async_trait]
impl World for Stdout {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    fn topic(&self) -> &str {
        "any"
    }

    fn refused_topic(&self) -> Option<&str> {
        None
    }

    async fn arrived_payloads(&self, count: usize) -> Vec<(String, usize)> {
        eventually(Duration::from_secs(20), || async {
            let bytes = self.state.lock().unwrap().lines.clone();
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let lines = std::str::from_utf8(&bytes[..whole]).unwrap().lines();
            let all: Vec<(String, usize)> = lines.map(line).collect();
            (all.len() >= count).then_some(all)
        })
        .await
    }

    fn comes_back(&self) -> bool {
        false
    }

    fn cut_after(&self, bytes: u64) {
        self.state.lock().unwrap().gone_at = bytes;
    }

    fn away(&self) {}

    fn hold(&self) {
        self.state.lock().unwrap().upto = 0;
    }

    fn back(&self) {
        self.state.lock().unwrap().upto = u64::MAX;
    }
}

fn line(text: &str) -> (String, usize) {
    let value: serde_json::Value = serde_json::from_str(text).expect("every line is JSON");
    let length = match &value["payload"] {
        serde_json::Value::Null => 0,
        serde_json::Value::String(s) if s.is_empty() || s.starts_with(' ') => s.len(),
        other => other.to_string().len(),
    };
    (value["id"].as_str().expect("every line has an id").to_owned(), length)
}
