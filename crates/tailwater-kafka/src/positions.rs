//! The topic that holds the positions of exactly-once pipelines: one compacted topic, keyed by pipeline. What a record says,
//! how the latest one is found, how the topic is made. Publishes nothing.

use crate::client;
use crate::config::KafkaConfig;
use crate::context::{Context, Events};
use crate::failure::{Identity, KafkaProblem};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tailwater_core::{Message, Position};
use tokio::runtime::Handle;

/// Compaction leaves the last segment alone: small ones keep a start quick.
const SEGMENT_BYTES: &str = "16777216";
/// Records at the end that are read first: as a rule ours is among them.
const TAIL: i64 = 2000;
const POLL: Duration = Duration::from_millis(200);
/// The coordinator ends a transaction that its producer has left within a minute; ours has that limit too.
const HIDDEN_LIMIT: Duration = Duration::from_secs(70);

/// A record's value: where a pipeline stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    pub version: u32,
    /// Everything up to here is published. None: nothing yet.
    pub position: Option<String>,
    /// Fingerprints of messages behind the position that are published too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Names the transaction that wrote it, so that its writer can tell whether it was committed.
    pub transaction: String,
}

pub const VERSION: u32 = 1;

impl Stored {
    pub fn position(&self) -> Option<Position> {
        self.position.as_deref().map(Position::new)
    }

    pub fn fingerprints(&self) -> impl Iterator<Item = u64> {
        self.after.iter().filter_map(|text| u64::from_str_radix(text, 16).ok())
    }
}

/// Recognizes a message in a repetition: FNV-1a over what a repetition repeats.
pub fn fingerprint(message: &Message) -> u64 {
    let parts = [message.id.0.as_bytes(), message.topic.as_bytes(), &[u8::from(message.payload.is_some())]];
    let bytes = parts.into_iter().flat_map(|part| part.iter().chain(&[0x1f]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Where positions lie.
pub struct Positions {
    pub config: Arc<KafkaConfig>,
    pub identity: Arc<Identity>,
    /// The record's key.
    pub pipeline: String,
    /// The topic was seen to be as it must be.
    pub seen: AtomicBool,
}

impl Positions {
    /// The latest committed record; blocks. Makes the topic if it is not there. `certain`: waits until no open transaction can
    /// hide it; else a later one may come to light, as that of a killed process does when it is fenced.
    pub fn read(&self, runtime: &Handle, certain: bool) -> Result<Option<Stored>, KafkaProblem> {
        if !self.seen.load(Relaxed) {
            self.ensure_topic(runtime)?;
            self.seen.store(true, Relaxed);
        }
        let doing = "read the position";
        let (topic, limit) = (&self.config.offsets_topic, self.config.connect_timeout);
        let (_, end) =
            self.consumer("read_uncommitted")?.fetch_watermarks(topic, 0, limit).map_err(KafkaProblem::call(doing))?;
        let consumer = self.consumer("read_committed")?;
        let begin = Instant::now();
        let (low, high) = loop {
            // the end of what is committed: a transaction of another pipeline may still hide ours
            let (low, high) = consumer.fetch_watermarks(topic, 0, limit).map_err(KafkaProblem::call(doing))?;
            if high >= end || !certain {
                break (low, high);
            }
            if begin.elapsed() > HIDDEN_LIMIT {
                let cause = Some("a transaction of another pipeline does not end".into());
                return Err(KafkaProblem::Timeout { doing, limit_s: HIDDEN_LIMIT.as_secs_f32(), cause });
            }
            std::thread::sleep(POLL / 10);
        };
        let tail = (high - TAIL).max(low);
        match self.latest(&consumer, tail)? {
            None if tail > low => self.latest(&consumer, low),
            found => Ok(found),
        }
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer<Context>, KafkaProblem> {
        let mut settings = client::connection(&self.config)?;
        settings
            .set("group.id", "tailwater-positions") // needed by the library, never joined
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .set("isolation.level", isolation);
        let context = Context { events: Arc::new(Events::default()) };
        settings.create_with_context(context).map_err(KafkaProblem::call("read the position"))
    }

    /// The last record of ours between `from` and the end of what is committed.
    fn latest(&self, consumer: &BaseConsumer<Context>, from: i64) -> Result<Option<Stored>, KafkaProblem> {
        let doing = "read the position";
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(&self.config.offsets_topic, 0, Offset::Offset(from))
            .map_err(KafkaProblem::call(doing))?;
        consumer.assign(&place).map_err(KafkaProblem::call(doing))?;
        let (mut found, mut progress) = (None, Instant::now());
        loop {
            match consumer.poll(POLL) {
                Some(Ok(record)) => {
                    progress = Instant::now();
                    if record.key() == Some(self.pipeline.as_bytes()) {
                        found = match record.payload() {
                            Some(bytes) => Some(self.parse(bytes)?),
                            None => None,
                        };
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) if progress.elapsed() > self.config.connect_timeout => {
                    return Err(KafkaProblem::call(doing)(error));
                }
                None if progress.elapsed() > self.config.connect_timeout => {
                    let limit_s = self.config.connect_timeout.as_secs_f32();
                    return Err(KafkaProblem::Timeout { doing, limit_s, cause: None });
                }
                _ => {}
            }
        }
    }

    /// H2: what cannot be understood is no first start.
    fn parse(&self, bytes: &[u8]) -> Result<Stored, KafkaProblem> {
        let (topic, key) = (&self.config.offsets_topic, &self.pipeline);
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| {
            KafkaProblem::Position(format!("the record of `{key}` in topic `{topic}` cannot be read: {error}"))
        })?;
        if stored.version != VERSION {
            let text = format!(
                "the record of `{key}` in topic `{topic}` has version {}, this program knows {VERSION}",
                stored.version
            );
            return Err(KafkaProblem::Position(text));
        }
        Ok(stored)
    }

    fn ensure_topic(&self, runtime: &Handle) -> Result<(), KafkaProblem> {
        let (doing, name) = ("look up the topic of positions", self.config.offsets_topic.as_str());
        let settings = client::connection(&self.config)?;
        let context = Context { events: Arc::new(Events::default()) };
        let admin = AdminClient::from_config_and_context(&settings, context).map_err(KafkaProblem::call(doing))?;
        let limit = self.config.connect_timeout;
        let options = AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit));
        let describe = || runtime.block_on(admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options));
        // of a topic that is not there the answer is empty, or an error
        let answer = describe().map_err(KafkaProblem::call(doing))?.pop();
        match answer.filter(|answer| answer.as_ref().map_or(true, |config| !config.entries.is_empty())) {
            Some(Ok(config)) => {
                let policy = config.get("cleanup.policy").and_then(|entry| entry.value.clone()).unwrap_or_default();
                if policy != "compact" {
                    return Err(KafkaProblem::Position(format!(
                        "topic `{name}` holds positions and must keep the last one of each key; its cleanup.policy is `{policy}` (kafka-configs.sh \
                         --bootstrap-server {} --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact)",
                        self.identity.servers
                    )));
                }
                Ok(())
            }
            None | Some(Err(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {
                let topic =
                    NewTopic::new(name, 1, TopicReplication::Fixed(self.config.topics.replication.unwrap_or(-1)))
                        .set("cleanup.policy", "compact")
                        .set("segment.bytes", SEGMENT_BYTES)
                        .set("min.cleanable.dirty.ratio", "0.1");
                let made =
                    runtime.block_on(admin.create_topics([&topic], &options)).map_err(KafkaProblem::call(doing))?;
                match made.into_iter().next() {
                    Some(Err((_, Code::TopicAlreadyExists))) | Some(Ok(_)) => self.wait_for_topic(&admin),
                    Some(Err((_, code @ (Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)))) => {
                        Err(KafkaProblem::Position(format!(
                            "topic `{name}` cannot be made: {code} (kafka-topics.sh --bootstrap-server {} --create --topic {name} \
                             --partitions 1 --config cleanup.policy=compact)",
                            self.identity.servers
                        )))
                    }
                    Some(Err((_, code))) => Err(KafkaProblem::Call { doing, code }),
                    None => Err(KafkaProblem::Call { doing, code: Code::Unknown }),
                }
            }
            // its settings may not be seen: trusted
            Some(Err(Code::TopicAuthorizationFailed)) => Ok(()),
            Some(Err(code)) => Err(KafkaProblem::Call { doing, code }),
        }
    }

    fn wait_for_topic(&self, admin: &AdminClient<Context>) -> Result<(), KafkaProblem> {
        let (begin, doing) = (Instant::now(), "make the topic of positions");
        loop {
            let metadata = admin.inner().fetch_metadata(Some(&self.config.offsets_topic), self.config.connect_timeout);
            let metadata = metadata.map_err(KafkaProblem::call(doing))?;
            let ready = metadata.topics().iter().any(|topic| topic.error().is_none() && !topic.partitions().is_empty());
            if ready {
                return Ok(());
            }
            if begin.elapsed() > self.config.connect_timeout {
                return Err(KafkaProblem::Call { doing, code: Code::LeaderNotAvailable });
            }
            std::thread::sleep(POLL / 2);
        }
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_where_a_pipeline_stands_and_what_is_published_behind() {
        let stored = Stored {
            version: VERSION,
            position: Some("0/16B3748 3".into()),
            after: vec![format!("{:x}", 0xfeed_u64)],
            transaction: "a-7".into(),
        };
        let text = serde_json::to_string(&stored).unwrap();
        assert_eq!(text, r#"{"version":1,"position":"0/16B3748 3","after":["feed"],"transaction":"a-7"}"#);
        let read: Stored = serde_json::from_str(&text).unwrap();
        assert_eq!(read.fingerprints().collect::<Vec<_>>(), [0xfeed]);
        assert_eq!(read, stored);
    }
}
