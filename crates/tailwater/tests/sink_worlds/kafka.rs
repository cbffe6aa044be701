//! Kafka behind a fault proxy: a topic of its own with one partition.

use super::World;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tailwater::config::KafkaConfig;
use tailwater::metrics::Status;
use tailwater::sinks::kafka::StatusObserver;
use tailwater_core::Sink;
use tailwater_kafka::KafkaSink;
use testbed::{KafkaOptions, Proxy, eventually, unique};
use tokio::sync::OnceCell;

/// The broker of this process, with enough proxied listeners for one test each.
async fn broker() -> &'static testbed::Kafka {
    static BROKER: OnceCell<testbed::Kafka> = OnceCell::const_new();
    BROKER.get_or_init(|| testbed::Kafka::start_with(KafkaOptions { proxies: 24, ..KafkaOptions::default() })).await
}

pub struct Kafka {
    proxy: Proxy,
    broker: &'static testbed::Kafka,
    topic: String,
    absent: String,
    status: Arc<Status>,
    /// Claimed, for exactly once.
    claimed: Option<Arc<KafkaSink>>,
}

impl Kafka {
    /// Publishes in transactions.
    pub async fn exactly_once() -> Self {
        let world = Kafka::start().await;
        let positions = format!("positions-{}", world.topic);
        let config = KafkaConfig { exactly_once: true, offsets_topic: positions, ..world.config() };
        let sink = KafkaSink::new(config, &world.topic, Arc::new(StatusObserver(world.status.clone()))).unwrap();
        sink.checkpoints().unwrap().claim().await.unwrap();
        Kafka { claimed: Some(Arc::new(sink)), ..world }
    }

    fn config(&self) -> KafkaConfig {
        KafkaConfig {
            bootstrap_servers: vec![self.proxy.addr().to_string()],
            connect_timeout: Duration::from_secs(3),
            ..KafkaConfig::default()
        }
    }

    pub async fn start() -> Self {
        let broker = broker().await;
        let topic = unique("events");
        broker.create_topic(&topic, 1, &[("max.message.bytes", "20000000")]).await;
        let (proxy, absent) = (broker.take_proxy(), unique("absent"));
        Kafka { proxy, broker, topic, absent, status: Arc::new(Status::new("test")), claimed: None }
    }
}

#[async_trait]
impl World for Kafka {
    fn sink(&self) -> Arc<dyn Sink> {
        if let Some(sink) = &self.claimed {
            return sink.clone();
        }
        Arc::new(KafkaSink::new(self.config(), "test", Arc::new(StatusObserver(self.status.clone()))).unwrap())
    }

    fn topic(&self) -> &str {
        &self.topic
    }

    fn refused_topic(&self) -> Option<&str> {
        Some(&self.absent)
    }

    async fn arrived_payloads(&self, count: usize) -> Vec<(String, usize)> {
        let all = eventually(Duration::from_secs(20), || async {
            let all = self.broker.records(&self.topic).await;
            testbed::note(all.len());
            (all.len() >= count).then_some(all)
        })
        .await;
        let id = |record: &testbed::Record| record.header("id").expect("every message has an id").to_owned();
        all.iter().map(|record| (id(record), record.value.as_ref().map_or(0, Vec::len))).collect()
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
