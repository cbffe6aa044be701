//! Publishes the same small message over and over through the RabbitMQ publisher, with nothing before it: what the broker can
//! take, for `cargo xtask bench`.
//!
//! `BARE_PUBLISHER_URL=amqp://… bare_publisher EXCHANGE COUNT`

use bytes::Bytes;
use std::sync::Arc;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sinks::rabbitmq::RabbitmqSink;
use tailwater::sinks::rabbitmq::config::RabbitmqConfig;
use tailwater_core::route::Compatibility;
use tailwater_core::{Failure, HeaderValue, Headers, Message, MessageId, Sink, Slice, Timestamp};

const SLICE: usize = 200;
const WINDOW: usize = 2000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let exchange = arguments.next().expect("first argument: exchange");
    let count: usize = arguments.next().and_then(|n| n.parse().ok()).expect("second argument: count");
    let url = std::env::var("BARE_PUBLISHER_URL").expect("BARE_PUBLISHER_URL is set");
    let config = RabbitmqConfig { urls: vec![Secret::new(url)], exchange, ..Default::default() };
    let sink = RabbitmqSink::new(config, Compatibility::Default, Arc::new(Status::new("bare")));
    let mut publisher = sink.open(0).await?;
    let (mut pushed, mut durable) = (0, 0);
    while durable < count {
        while pushed < count && pushed - durable < WINDOW {
            let messages: Arc<[Message]> = (pushed..count.min(pushed + SLICE)).map(message).collect();
            pushed += messages.len();
            publisher.push(Slice { messages, upto: None });
        }
        durable += publisher.drive().await?.durable;
    }
    Ok(())
}

fn message(n: usize) -> Message {
    let id = format!("6f1c2a5e-0000-4000-8000-{n:012}");
    let mut headers = Headers::default();
    headers.push("id", HeaderValue::Text(id.clone().into()));
    Message {
        id: MessageId(id.into()),
        topic: "bench".into(),
        event_type: Some("Benched".into()),
        key: Some(format!("k{}", n % 1000).into()),
        headers,
        content_type: "application/json",
        payload: Some(Bytes::from(format!("{{\"n\": {n}, \"filler\": \"{}\"}}", "x".repeat(220)))),
        partition: None,
        timestamp: Timestamp(1_700_000_000_000_000 + n as i64),
    }
}
