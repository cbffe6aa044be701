//! Kafka behind a fault proxy: a topic of its own with one partition.

use super::World;
use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tailwater::config::KafkaConfig;
use tailwater::metrics::Status;
use tailwater::sinks::kafka::StatusObserver;
use tailwater_core::Sink;
use tailwater_kafka::KafkaSink;
use testbed::{KafkaOptions, Proxy, unique};
use tokio::sync::OnceCell;

/// The broker of this process, with enough proxied listeners for one test each.
async fn broker() -> &'static testbed::Kafka {
    static BROKER: OnceCell<testbed::Kafka> = OnceCell::const_new();
    BROKER.get_or_init(|| testbed::Kafka::start_with(KafkaOptions { proxies: 12, ..KafkaOptions::default() })).await
}

pub struct Kafka {
    proxy: Proxy,
    broker: &'static testbed::Kafka,
    topic: String,
    absent: String,
    status: Arc<Status>,
}

impl Kafka {
    pub async fn start() -> Self {
        let broker = broker().await;
        let topic = unique("events");
        broker.create_topic(&topic, 1, &[("max.message.bytes", "20000000")]).await;
        let (proxy, absent) = (broker.take_proxy(), unique("absent"));
        Kafka { proxy, broker, topic, absent, status: Arc::new(Status::new("test")) }
    }
}

/// Everything in a topic of one partition: header `id`, length of the payload. Waits for `count`.
fn read(broker: &testbed::Kafka, topic: &str, count: usize) -> Vec<(String, usize)> {
    let mut config = broker.client();
    config
        .set("group.id", unique("readers"))
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "20000000");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let mut read = vec![];
    let limit = Instant::now() + Duration::from_secs(20);
    while read.len() < count {
        assert!(Instant::now() < limit, "{} of {count} arrived", read.len());
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(200)) else { continue };
        let id = record.headers().unwrap().iter().find(|header| header.key == "id").unwrap();
        let id = String::from_utf8(id.value.unwrap().to_vec()).unwrap();
        read.push((id, record.payload().map_or(0, <[u8]>::len)));
    }
    // whatever else is there
    while let Some(Ok(record)) = consumer.poll(Duration::from_millis(300)) {
        let id = record.headers().unwrap().iter().find(|header| header.key == "id").unwrap();
        read.push((String::from_utf8(id.value.unwrap().to_vec()).unwrap(), record.payload().map_or(0, <[u8]>::len)));
    }
    read
}

#[async_trait]
impl World for Kafka {
    fn sink(&self) -> Arc<dyn Sink> {
        let config = KafkaConfig {
            bootstrap_servers: vec![self.proxy.addr().to_string()],
            connect_timeout: Duration::from_secs(3),
            ..KafkaConfig::default()
        };
        Arc::new(KafkaSink::new(config, "test", Arc::new(StatusObserver(self.status.clone()))).unwrap())
    }

    fn topic(&self) -> &str {
        &self.topic
    }

    fn refused_topic(&self) -> Option<&str> {
        Some(&self.absent)
    }

    async fn arrived_payloads(&self, count: usize) -> Vec<(String, usize)> {
        let (broker, topic) = (self.broker, self.topic.clone());
        tokio::task::spawn_blocking(move || read(broker, &topic, count)).await.unwrap()
    }

    fn comes_back(&self) -> bool {
        true
    }

    fn mends_cuts(&self) -> bool {
        true
    }

    fn cut_after(&self, bytes: u64) {
        self.proxy.cut_after(bytes / 5); // batches are small: a fifth of the bytes of other protocols
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
