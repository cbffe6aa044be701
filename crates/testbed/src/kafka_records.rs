//! What a topic holds, read by a consumer outside all groups.

use crate::Kafka;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaErrorCode;
use std::time::{Duration, Instant};

/// A record as it lies in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// In their order; a value may be absent.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// ms since 1970, -1 for none.
    pub timestamp_ms: i64,
}

impl Record {
    /// The first header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// The value as text.
    pub fn text(&self) -> &str {
        self.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }
}

impl Kafka {
    /// All committed records that are in `topic` now, partition by partition. A topic that does not exist is empty.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        let mut config = self.client();
        config.set("group.id", "testbed-reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("isolation.level", "read_committed");
        let topic = topic.to_owned();
        let read = move || {
            let consumer: BaseConsumer = config.create().expect("a consumer needs no connection");
            read(&consumer, &topic)
        };
        tokio::task::spawn_blocking(read).await.expect("not cancelled")
    }
}

fn read(consumer: &BaseConsumer, topic: &str) -> Vec<Record> {
    let limit = Duration::from_secs(30);
    let found = consumer.fetch_metadata(Some(topic), limit).expect("the broker answers");
    let partitions = found.topics().first().map(|topic| topic.partitions().len()).unwrap_or_default();
    let mut places = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).expect("a number of partitions") {
        places.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid place");
    }
    consumer.assign(&places).expect("partitions that exist");
    let (mut records, mut ends, start) = (Vec::new(), 0, Instant::now());
    while ends < partitions {
        assert!(start.elapsed() < limit, "topic {topic} was not read within {limit:?}");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => records.push(record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) => break,
            Some(Err(_)) | None => {}
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
    }
}
