//! The sink: makes publishers, one producer each.

use crate::client::BATCH_BYTES;
use crate::config::KafkaConfig;
use crate::exactly_once::{ExactlyOnce, KafkaCheckpoints};
use crate::failure::{Identity, KafkaProblem, classify};
use crate::outlet::{Outlet, Shared};
use crate::producer;
use crate::publisher::KafkaPublisher;
use crate::topics::Topics;
use crate::transaction::TransactionalPublisher;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tailwater_core::{Checkpoints, Failure, Publisher, Sink};

/// Told how the cluster is doing. Called from any thread; must not block.
pub trait Observer: Send + Sync {
    /// A broker answered just now.
    fn seen(&self);
    /// A publisher ended: what was seen through it holds no longer.
    fn gone(&self);
    /// No broker can be reached by this lane; the client library tries again by itself.
    fn away(&self, lane: u32, error: &str);
    /// It goes on.
    fn back(&self, lane: u32);
}

/// Nobody wants to know.
#[derive(Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn seen(&self) {}
    fn gone(&self) {}
    fn away(&self, _: u32, _: &str) {}
    fn back(&self, _: u32) {}
}

/// Publishes to one cluster as configured.
pub struct KafkaSink {
    shared: Arc<Shared>,
    once: Option<Arc<ExactlyOnce>>,
}

impl KafkaSink {
    /// Looks at nothing but the configuration; the cluster is first met by `open`. `name` is the pipeline's.
    pub fn new(config: KafkaConfig, name: &str, observer: Arc<dyn Observer>) -> Result<KafkaSink, Failure> {
        KafkaSink::make(config, name, observer, None)
    }

    /// The way to the dead letters: `dead_letter_topic`, key and headers as they are. `None` where none is configured.
    pub fn dead_letters(
        config: &KafkaConfig,
        name: &str,
        observer: Arc<dyn Observer>,
    ) -> Result<Option<KafkaSink>, Failure> {
        let Some(topic) = config.dead_letter_topic.as_deref().filter(|topic| !topic.is_empty()) else {
            return Ok(None);
        };
        KafkaSink::make(config.clone(), name, observer, Some(topic.into())).map(Some)
    }

    fn make(
        config: KafkaConfig,
        name: &str,
        observer: Arc<dyn Observer>,
        fixed_topic: Option<Arc<str>>,
    ) -> Result<KafkaSink, Failure> {
        if let Some((field, text)) = config.problems().into_iter().next() {
            return Err(Failure::fatal("correct the sink's configuration", format!("sink.{field}: {text}")));
        }
        let transactional_id = config.exactly_once.then(|| transactional_id(&config, name));
        let identity = Arc::new(Identity {
            user: config.username.clone().unwrap_or_default(),
            servers: config.bootstrap_servers.join(","),
            transactional_id,
        });
        let config = Arc::new(config);
        let topics = Arc::new(Topics::new(config.clone(), identity.clone()));
        let batch_bytes = AtomicUsize::new(BATCH_BYTES);
        let transactional_id = identity.transactional_id.clone().filter(|_| fixed_topic.is_none());
        let shared = Arc::new(Shared { config, identity, topics, observer, batch_bytes, fixed_topic });
        let once = transactional_id.map(|id| Arc::new(ExactlyOnce::new(shared.clone(), name, id)));
        Ok(KafkaSink { shared, once })
    }

    /// Where an exactly-once pipeline keeps its position; `None` without `exactly_once`.
    pub fn checkpoints(&self) -> Option<Arc<dyn Checkpoints>> {
        self.once.clone().map(|once| Arc::new(KafkaCheckpoints(once)) as Arc<dyn Checkpoints>)
    }

    async fn connect(&self, lane: u32) -> Result<Box<dyn Publisher>, KafkaProblem> {
        let shared = self.shared.clone();
        let batch_bytes = shared.batch_bytes.load(Relaxed);
        if let Some(once) = &self.once {
            let (producer, claim) = once.producer().await?;
            let outlet = Outlet::new(shared, producer, lane, batch_bytes);
            return Ok(Box::new(TransactionalPublisher::new(outlet, once.clone(), claim)));
        }
        let producer = producer::idempotent(&shared.config, batch_bytes, shared.observer.clone()).await?;
        Ok(Box::new(KafkaPublisher::new(Outlet::new(shared, producer, lane, batch_bytes))))
    }
}

/// What fences two processes of one pipeline against each other.
fn transactional_id(config: &KafkaConfig, name: &str) -> String {
    config.transactional_id.clone().unwrap_or_else(|| format!("tailwater-{name}"))
}

#[async_trait]
impl Sink for KafkaSink {
    async fn open(&self, lane: u32) -> Result<Box<dyn Publisher>, Failure> {
        let publisher = self.connect(lane).await.map_err(|problem| classify(problem, &self.shared.identity))?;
        tracing::info!(servers = %self.shared.identity.servers, lane, "connected to the cluster");
        Ok(publisher)
    }
}
