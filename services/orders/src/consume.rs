//! Consuming topics: one record at a time per process, its offset stored only after its transaction has committed. What
//! cannot be handled goes to a dead-letter topic first. At least once; the inbox makes it once in effect.

use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Why a record was not handled.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This record will never work.
    #[error("{0}")]
    Poison(String),
    /// Nothing is wrong with the record: try it again.
    #[error("the database is not available: {0}")]
    Away(String),
}

/// What a handler sees of a record.
#[derive(Clone, Debug)]
pub struct Received {
    /// Header `id`: the same in every repetition of an event.
    pub id: String,
    pub topic: String,
    pub payload: Vec<u8>,
}

/// Settings of a client of the brokers at `bootstrap` (comma separated).
pub fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("broker.address.family", "v4");
    config
}

/// Handles the records of `topics` as a member of `group`, until `stop`.
pub async fn run<H>(
    kafka: &ClientConfig,
    group: &str,
    topics: &[&str],
    handle: H,
    stop: CancellationToken,
) -> Result<(), KafkaError>
where
    H: AsyncFn(&Received) -> Result<(), Failure>,
{
    let consumer: StreamConsumer = kafka
        .clone()
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        // an offset is stored by us, once the effect is committed
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        // a killed member gives its partitions back soon
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "2000")
        .create()?;
    let dead_letters: FutureProducer =
        kafka.clone().set("acks", "all").set("enable.idempotence", "true").set("message.timeout.ms", "0").create()?;
    consumer.subscribe(topics)?;
    tracing::info!(group, ?topics, "consuming");
    loop {
        let record = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            record = consumer.recv() => record,
        };
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "the broker is not available");
                pause(Duration::from_millis(500), &stop).await;
                continue;
            }
        };
        if settle(&handle, &dead_letters, &record, &stop).await {
            consumer.store_offset_from_message(&record)?;
        }
    }
    // what was handled is said at once, so that nobody repeats it
    drop(tokio::task::spawn_blocking(move || consumer.commit_consumer_state(CommitMode::Sync)).await);
    Ok(())
}

/// True once the record has had its effect or is a dead letter; false if it was stopped before.
async fn settle<H>(
    handle: &H,
    dead_letters: &FutureProducer,
    record: &BorrowedMessage<'_>,
    stop: &CancellationToken,
) -> bool
where
    H: AsyncFn(&Received) -> Result<(), Failure>,
{
    let mut wait = Duration::from_millis(100);
    while !stop.is_cancelled() {
        let outcome = match received(record) {
            Ok(received) => handle(&received).await,
            Err(reason) => Err(Failure::Poison(reason)),
        };
        match outcome {
            Ok(()) => return true,
            Err(Failure::Poison(reason)) => {
                tracing::error!(reason, topic = record.topic(), offset = record.offset(), "to the dead letters");
                if bury(dead_letters, record, &reason).await {
                    return true;
                }
            }
            Err(Failure::Away(error)) => tracing::warn!(error, "waiting for the database"),
        }
        pause(wait, stop).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
    false
}

fn received(record: &BorrowedMessage<'_>) -> Result<Received, String> {
    let id = record.headers().and_then(|headers| headers.iter().find(|header| header.key == "id"));
    let id = id.and_then(|header| std::str::from_utf8(header.value?).ok()).ok_or("a record without the header `id`")?;
    let payload = record.payload().ok_or("a record without a value")?;
    Ok(Received { id: id.to_owned(), topic: record.topic().to_owned(), payload: payload.to_vec() })
}

/// Where the records of `topic` go that cannot be handled.
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dead-letters")
}

/// Publishes the record to [`dead_letters`], with the reason; true once it is stored there.
async fn bury(producer: &FutureProducer, record: &BorrowedMessage<'_>, reason: &str) -> bool {
    let topic = dead_letters(record.topic());
    let headers = record.headers().map_or_else(OwnedHeaders::new, rdkafka::message::BorrowedHeaders::detach);
    let headers = headers
        .insert(Header { key: "x-reason", value: Some(reason) })
        .insert(Header { key: "x-original-topic", value: Some(record.topic()) });
    let letter = FutureRecord::to(&topic).headers(headers);
    let letter = FutureRecord::<[u8], [u8]> { key: record.key(), payload: record.payload(), ..letter };
    match producer.send(letter, Duration::from_secs(5)).await {
        Ok(_) => true,
        Err((error, _)) => {
            tracing::warn!(%error, topic, "the dead letter cannot be stored; trying again");
            false
        }
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = stop.cancelled() => {}
    }
}
