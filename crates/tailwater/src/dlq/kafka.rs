//! A Kafka topic of dead letters, read from its beginning without a group: other readers notice nothing.
//!
//! A topic cannot lose single records. What was replayed or purged is remembered in the consumer group [`GROUP`], record by
//! record (see `marks`), and is a dead letter no more; the offset is committed *after* the replay was acknowledged by the
//! brokers. What a purge settles at the beginning of a partition is deleted there as well (`DeleteRecords`).

use super::marks::Marks;
use super::{DeadLetters, Decide, Decision, Letter, Origin, Outcome, Redirect, Unsent};
use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tailwater_core::Failure;
use tailwater_kafka::KafkaConfig;
use tailwater_kafka::client::connection;
use tailwater_kafka::failure::{Identity, KafkaProblem, classify};

/// Holds what was replayed or purged; nobody ever joins it.
pub const GROUP: &str = "tailwater-dlq";
/// Limit on one answer of the cluster.
const LIMIT: Duration = Duration::from_secs(20);

/// A topic, and the records that were in it when it was opened.
pub struct Topic {
    name: String,
    config: ClientConfig,
    consumer: StreamConsumer,
    producer: Option<FutureProducer>,
    partitions: BTreeMap<i32, Partition>,
    identity: Identity,
}

#[derive(Debug, Default)]
struct Partition {
    marks: Marks,
    /// The offset of the record that is expected next; what is missing in between never was, or is compacted away.
    next: i64,
    /// Where it ended when it was opened.
    end: i64,
    dirty: bool,
    removed: bool,
}

impl Topic {
    /// Looks at the topic, its ends and what is settled.
    pub async fn open(config: &KafkaConfig, name: &str) -> Result<Topic, Failure> {
        let identity = Identity {
            user: config.username.clone().unwrap_or_default(),
            servers: config.bootstrap_servers.join(","),
            transactional_id: None,
        };
        let failed = |problem: KafkaProblem| classify(problem, &identity);
        let mut client = connection(config).map_err(failed)?;
        client.set("group.id", GROUP).set("client.id", "tailwater dlq");
        let mut reading = client.clone();
        reading.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        reading.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
        let (topic, scout) = (name.to_owned(), reading.clone());
        let partitions = tokio::task::spawn_blocking(move || look(&scout, &topic)).await;
        let partitions = partitions.map_err(|error| Failure::retry(error.to_string()))?.map_err(failed)?;
        if partitions.is_empty() {
            return Err(Failure::fatal("correct the topic's name", format!("there is no topic {name}")));
        }
        let consumer = reading.create().map_err(KafkaProblem::call("start a consumer")).map_err(failed)?;
        Ok(Topic { name: name.into(), config: client, consumer, producer: None, partitions, identity })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(KafkaError) -> Failure {
        let identity = self.identity.clone();
        move |error| classify(KafkaProblem::call(doing)(error), &identity)
    }

    fn assign(&self) -> Result<(), Failure> {
        let mut from = TopicPartitionList::new();
        for (number, partition) in self.partitions.iter().filter(|(_, partition)| partition.next < partition.end) {
            let added = from.add_partition_offset(&self.name, *number, Offset::Offset(partition.next));
            added.map_err(self.failed("choose an offset"))?;
        }
        self.consumer.assign(&from).map_err(self.failed("read the topic"))
    }

    /// The next record that was there at the start; its place is remembered. `None`: all have been seen.
    async fn next(&mut self) -> Result<Option<Record>, Failure> {
        while self.partitions.values().any(|partition| partition.next < partition.end) {
            let received = tokio::time::timeout(LIMIT, self.consumer.recv()).await;
            let (partition, offset, record) = match received {
                Err(_) => {
                    return Err(Failure::retry(format!("read the topic: nothing came within {} s", LIMIT.as_secs())));
                }
                Ok(Err(KafkaError::PartitionEOF(number))) => {
                    if let Some(partition) = self.partitions.get_mut(&number) {
                        partition.skip_to(partition.end);
                    }
                    continue;
                }
                Ok(Err(error)) => return Err(self.failed("read the topic")(error)),
                Ok(Ok(message)) => (message.partition(), message.offset(), Record::of(&message)),
            };
            let Some(known) = self.partitions.get_mut(&partition).filter(|known| offset < known.end) else { continue };
            known.skip_to(offset);
            known.next = offset + 1;
            if !known.marks.contains(offset) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    async fn replay(&mut self, record: &Record, body: Option<&Bytes>, to: &Redirect) -> Result<(), Unsent> {
        let (origin, partition) = match &record.letter.origin {
            Some(Origin::Kafka { topic, partition }) => (Some(topic), *partition),
            _ => (None, None),
        };
        let topic = to
            .topic
            .as_ref()
            .or(origin)
            .ok_or_else(|| Unsent::Refused("it does not say where it came from: give --to-topic".into()))?;
        if !self.partitions[&record.partition].marks.fits(record.offset) {
            let why = "too many letters between the replayed ones are left: replay or purge the oldest first";
            return Err(Unsent::Refused(why.into()));
        }
        let producer = match &self.producer {
            Some(producer) => producer,
            None => {
                let mut config = self.config.clone();
                config.remove("group.id");
                config.set("enable.idempotence", "true").set("acks", "all").set("partitioner", "murmur2_random");
                config.set("message.timeout.ms", LIMIT.as_millis().to_string()).set("linger.ms", "0");
                let made = config.create().map_err(self.failed("start a producer")).map_err(Unsent::Failed)?;
                self.producer.insert(made)
            }
        };
        let payload = body.map(|body| &body[..]).or(record.payload.as_deref());
        let sent = FutureRecord {
            topic,
            // With a key it goes where the key goes, as at first.
            partition: partition.filter(|_| record.key.is_none()),
            payload,
            key: record.key.as_deref(),
            timestamp: record.timestamp_ms,
            headers: Some(record.headers.clone()),
        };
        match producer.send(sent, Timeout::After(LIMIT)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                self.producer = None;
                match code {
                    Code::UnknownTopic
                    | Code::UnknownTopicOrPartition
                    | Code::MessageSizeTooLarge
                    | Code::TopicAuthorizationFailed
                    | Code::InvalidTopic
                    | Code::InvalidRecord
                    | Code::UnknownPartition => {
                        Err(Unsent::Refused(format!("topic `{topic}` does not take it: {code}")))
                    }
                    _ => Err(Unsent::Failed(self.failed("publish a letter")(error))),
                }
            }
        }
    }

    /// Writes down what is settled.
    fn commit(&mut self) -> Result<(), Failure> {
        let mut settled = TopicPartitionList::new();
        for (number, partition) in self.partitions.iter().filter(|(_, partition)| partition.dirty) {
            let (offset, text) = partition.marks.write();
            let mut element = settled.add_partition(&self.name, *number);
            element.set_metadata(text);
            element.set_offset(Offset::Offset(offset)).map_err(self.failed("choose an offset"))?;
        }
        if settled.count() > 0 {
            self.consumer.commit(&settled, CommitMode::Sync).map_err(self.failed("write down what is settled"))?;
        }
        self.partitions.values_mut().for_each(|partition| partition.dirty = false);
        Ok(())
    }

    /// Deletes what a purge has settled at the beginning of its partitions.
    async fn delete(&self) -> Result<Option<String>, Failure> {
        let mut list = TopicPartitionList::new();
        for (number, partition) in self.partitions.iter().filter(|(_, partition)| partition.removed) {
            let added = list.add_partition_offset(&self.name, *number, Offset::Offset(partition.marks.before()));
            added.map_err(self.failed("choose an offset"))?;
        }
        if list.count() == 0 {
            return Ok(None);
        }
        let mut config = self.config.clone();
        config.remove("group.id");
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(self.failed("start a client"))?;
        let options = AdminOptions::new().request_timeout(Some(LIMIT));
        let deleted = admin
            .delete_records(&list, &options)
            .await
            .and_then(|done| done.elements().iter().try_for_each(|element| element.error()));
        Ok(deleted.err().map(|error| {
            let code = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
            format!("the letters are settled, but their records stay in the topic until it forgets them: {code}")
        }))
    }
}

impl Partition {
    /// Nothing is between what was seen and `offset`: settled, so that no gap is remembered.
    fn skip_to(&mut self, offset: i64) {
        if self.next < offset {
            self.marks.settle(self.next, offset - 1);
            self.next = offset;
        }
    }

    fn settle(&mut self, offset: i64) {
        self.marks.settle(offset, offset);
        self.dirty = true;
    }
}

#[async_trait]
impl DeadLetters for Topic {
    fn name(&self) -> String {
        format!("topic {}", self.name)
    }

    async fn each(
        &mut self,
        decide: &mut Decide<'_>,
        redirect: &Redirect,
        pause: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        self.assign()?;
        while let Some(record) = self.next().await? {
            outcome.seen += 1;
            let partition = record.partition;
            match decide(&record.letter) {
                Decision::Leave => {}
                Decision::Remove => {
                    let known = self.partitions.get_mut(&partition).expect("it was read from there");
                    if known.marks.fits(record.offset) {
                        known.settle(record.offset);
                        known.removed = true;
                        outcome.removed += 1;
                    } else {
                        let why = "too many letters between the removed ones are left: purge the oldest first";
                        outcome.keep(&record.letter, why);
                    }
                }
                Decision::Replay { body } => {
                    outcome.pace(pause).await;
                    match self.replay(&record, body.as_ref(), redirect).await {
                        Ok(()) => {
                            // Acknowledged by the brokers: from here on a crash gives a duplicate with the same id.
                            self.partitions.get_mut(&partition).expect("it was read from there").settle(record.offset);
                            self.commit()?;
                            outcome.replayed += 1;
                        }
                        Err(unsent) => outcome.keep(&record.letter, unsent.reason()?),
                    }
                }
            }
        }
        self.commit()?;
        outcome.notes.extend(self.delete().await?);
        Ok(outcome)
    }
}

/// A record, with what a replay needs.
struct Record {
    partition: i32,
    offset: i64,
    letter: Letter,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    timestamp_ms: Option<i64>,
    /// Without the marks of who put it here.
    headers: OwnedHeaders,
}

/// The relay's marks, those of Kafka Connect and of Spring: they belong to the letter, not to the message.
const MARKS: [&str; 3] = ["x-tailwater-", "__connect.errors.", "kafka_dlt-"];

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Record {
        let (partition, offset) = (message.partition(), message.offset());
        let own: Vec<Header<'_, &[u8]>> = message.headers().map(|headers| headers.iter().collect()).unwrap_or_default();
        let text = |name: &str| {
            let header = own.iter().rev().find(|header| header.key == name);
            header.and_then(|header| header.value).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let first = |names: &[&str]| names.iter().find_map(|name| text(name));
        let shown = |value: Option<&[u8]>| value.map_or(Value::Null, |value| json!(String::from_utf8_lossy(value)));
        let headers: Map<String, Value> =
            own.iter().map(|header| (header.key.to_owned(), shown(header.value))).collect();
        let topic = first(&["x-tailwater-original-topic", "__connect.errors.topic", "kafka_dlt-original-topic"]);
        let origin = topic.map(|topic| Origin::Kafka {
            topic,
            partition: first(&["x-tailwater-original-partition", "__connect.errors.partition"])
                .and_then(|text| text.parse().ok()),
        });
        let reason = ["x-tailwater-reason", "__connect.errors.exception.message", "kafka_dlt-exception-message"];
        let timestamp_ms = message.timestamp().to_millis();
        let letter = Letter {
            place: format!("{partition}:{offset}"),
            message_id: text("id").filter(|id| !id.is_empty()),
            event_type: first(&["eventType", "type"]),
            key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()),
            reason: first(&reason),
            origin,
            died_at: None,
            made_at: timestamp_ms.map(|ms| ms / 1000),
            content_type: first(&["content-type", "contentType"]),
            headers,
            body: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
            incomplete: false,
        };
        let kept = own.iter().filter(|header| !MARKS.iter().any(|mark| header.key.starts_with(mark)));
        let headers = kept.fold(OwnedHeaders::new(), |headers, header| headers.insert(header.clone()));
        let (key, payload) = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec));
        Record { partition, offset, letter, key, payload, timestamp_ms, headers }
    }
}

/// The partitions with their ends and marks; none: no such topic. Blocks.
fn look(config: &ClientConfig, topic: &str) -> Result<BTreeMap<i32, Partition>, KafkaProblem> {
    let consumer: BaseConsumer = config.create().map_err(KafkaProblem::call("start a consumer"))?;
    let seen = consumer.fetch_metadata(Some(topic), LIMIT).map_err(KafkaProblem::call("look for the topic"))?;
    let numbers: Vec<i32> = seen.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()).collect();
    let mut wanted = TopicPartitionList::new();
    for number in &numbers {
        wanted.add_partition(topic, *number);
    }
    let settled = consumer.committed_offsets(wanted, LIMIT).map_err(KafkaProblem::call("ask what is settled"))?;
    let mut partitions = BTreeMap::new();
    for number in numbers {
        let ends = consumer.fetch_watermarks(topic, number, LIMIT);
        let (low, end) = ends.map_err(KafkaProblem::call("ask for the ends of the topic"))?;
        let element = settled.find_partition(topic, number);
        let mut marks = match element.as_ref().map(|element| (element.offset(), element.metadata())) {
            // Beyond the end: the topic was made anew.
            Some((Offset::Offset(offset), text)) if offset <= end => Marks::read(offset, text),
            _ => Marks::default(),
        };
        if low > marks.before() {
            marks.settle(marks.before(), low - 1);
        }
        let next = marks.before();
        partitions.insert(number, Partition { marks, next, end, ..Partition::default() });
    }
    Ok(partitions)
}
