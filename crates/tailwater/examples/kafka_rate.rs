//! Messages a second into a private Kafka broker: a bare rdkafka producer, our sink, and our sink exactly once, with the
//! same bytes in the same run.
//!
//! `cargo run --release -p tailwater --example kafka_rate [messages] [window]`

use bytes::Bytes;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tailwater::config::KafkaConfig;
use tailwater_core::{HeaderValue, Headers, Message, MessageId, Position, Publisher, Sink, Slice, Timestamp};
use tailwater_kafka::{KafkaSink, Unobserved};
use testbed::Kafka;

const SLICE: usize = 500;

type Outcome = Result<f64, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let number =
        |n: usize, default: usize| std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (count, window) = (number(1, 200_000), number(2, 2000));
    let broker = Kafka::start().await;
    println!("{count} messages of 300 bytes, 4 partitions, window {window}");
    for round in 0..3 {
        let topic = |kind: &str| format!("{kind}-{round}");
        for kind in ["bare", "sink", "once"] {
            broker.create_topic(&topic(kind), 4, &[]).await;
        }
        let bare = bare(&broker, &messages(&topic("bare"), count))?;
        let plain = KafkaConfig { bootstrap_servers: vec![broker.bootstrap()], ..KafkaConfig::default() };
        let sink = publish(plain.clone(), &messages(&topic("sink"), count), window).await?;
        let once =
            publish(KafkaConfig { exactly_once: true, ..plain }, &messages(&topic("once"), count), window).await?;
        println!(
            "bare {bare:.0}/s, sink {sink:.0}/s ({:.2}), exactly once {once:.0}/s ({:.2})",
            sink / bare,
            once / bare
        );
    }
    Ok(())
}

fn messages(topic: &str, count: usize) -> Vec<Message> {
    let payload = Bytes::from(vec![b'x'; 300]);
    let message = |n: usize| {
        let id = format!("00000000-0000-4000-8000-{n:012}");
        let mut headers = Headers::default();
        headers.push("id", HeaderValue::Text(Bytes::from(id.clone())));
        Message {
            id: MessageId(id.into()),
            topic: topic.into(),
            event_type: None,
            key: Some(Bytes::from(format!("key-{}", n % 1000))),
            headers,
            content_type: "application/json",
            payload: Some(payload.clone()),
            partition: None,
            timestamp: Timestamp(1_700_000_000_000_000),
        }
    };
    (0..count).map(message).collect()
}

fn bare(broker: &Kafka, messages: &[Message]) -> Outcome {
    let mut config = broker.client();
    config.set("enable.idempotence", "true").set("acks", "all").set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    producer.client().fetch_metadata(Some(&messages[0].topic), Duration::from_secs(5))?;
    let begin = Instant::now();
    for message in messages {
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(message.id.0.as_bytes()) });
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&message.topic).headers(headers).timestamp(message.timestamp.0 / 1000);
        record.key = message.key.as_deref();
        record.payload = message.payload.as_deref();
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            std::thread::sleep(Duration::from_millis(1));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(messages.len() as f64 / begin.elapsed().as_secs_f64())
}

/// As a lane does it: so many unconfirmed at most, results first.
async fn publish(config: KafkaConfig, messages: &[Message], window: usize) -> Outcome {
    let sink = KafkaSink::new(config, "rate", Arc::new(Unobserved))?;
    if let Some(checkpoints) = sink.checkpoints() {
        checkpoints.claim().await?;
    }
    let slices: Vec<Arc<[Message]>> = messages.chunks(SLICE).map(Into::into).collect();
    let mut publisher: Box<dyn Publisher> = sink.open(0).await?;
    let begin = Instant::now();
    let (mut pushed, mut durable) = (0, 0);
    for (n, slice) in slices.into_iter().enumerate() {
        pushed += slice.len();
        publisher.push(Slice { messages: slice, upto: Some(Position::new(format!("{n}"))) });
        while pushed - durable + SLICE > window {
            durable += publisher.drive().await?.durable;
        }
    }
    while durable < messages.len() {
        durable += publisher.drive().await?.durable;
    }
    Ok(messages.len() as f64 / begin.elapsed().as_secs_f64())
}
