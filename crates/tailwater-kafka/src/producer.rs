//! A producer with the thread that serves it: callbacks, and a sign of life when nothing else travels.
//!
//! Whoever drops a producer waits for its connections to close; here that is the thread, never the async runtime.

use crate::client;
use crate::config::KafkaConfig;
use crate::context::{ClientError, Context, Events};
use crate::failure::KafkaProblem;
use crate::sink::Observer;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout;

pub type Native = BaseProducer<Context>;

/// Callbacks are served at once; this is how often the thread looks whether it is still needed. The last millisecond of each
/// wait is a busy one, which hundreds of idle pipelines would feel.
const POLL: Duration = Duration::from_secs(2);
/// Silence after which the broker is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(4);
const SIGN_LIMIT: Duration = Duration::from_secs(3);
const FIRST_ANSWER_STEP: Duration = Duration::from_millis(20);

/// A connected producer.
pub struct Producer {
    pub native: Arc<Native>,
    pub events: Arc<Events>,
    /// Any topic in use: the broker is asked about it, since asking about all would be dear.
    pub topic: Arc<Mutex<Option<Arc<str>>>>,
}

/// What is still queued must not follow later messages of the next producer: it is thrown away now, not when the thread notices.
impl Drop for Producer {
    fn drop(&mut self) {
        self.native.purge(PurgeConfig::default().queue().inflight());
    }
}

impl Producer {
    /// Starts a producer and waits until the cluster has answered and let us in (K1).
    pub async fn connect(
        client: &ClientConfig,
        config: &KafkaConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Producer, KafkaProblem> {
        let events = Arc::new(Events::default());
        let context = Context { events: events.clone() };
        let native: Native = client.create_with_context(context).map_err(KafkaProblem::call("configure the client"))?;
        let producer = Producer { native: Arc::new(native), events, topic: Arc::default() };
        producer.serve(observer);
        let limit = config.connect_timeout;
        match timeout(limit, producer.first_answer()).await {
            Ok(outcome) => outcome.map(|()| producer),
            Err(_) => {
                let cause = producer.events.lock().cause.as_ref().map(|error| error.reason.clone());
                Err(KafkaProblem::Timeout { doing: "connect to the cluster", limit_s: limit.as_secs_f32(), cause })
            }
        }
    }

    async fn first_answer(&self) -> Result<(), KafkaProblem> {
        loop {
            let error = {
                let events = self.events.lock();
                if events.ready {
                    return Ok(());
                }
                events.broken.clone().or_else(|| events.away.clone())
            };
            if let Some(error) = error {
                return Err(KafkaProblem::Client { doing: "connect to the cluster", error });
            }
            self.events.changed.notified().await;
        }
    }

    /// The thread lives as long as anybody else holds the producer.
    fn serve(&self, observer: Arc<dyn Observer>) {
        let (native, events, topic) = (self.native.clone(), self.events.clone(), self.topic.clone());
        let work = move || {
            while Arc::strong_count(&native) > 1 && !events.lock().ready {
                native.poll(FIRST_ANSWER_STEP);
                if native.client().fetch_cluster_id(FIRST_ANSWER_STEP).is_some() {
                    observer.seen();
                    events.answered();
                }
            }
            let mut asked = Instant::now();
            while Arc::strong_count(&native) > 1 {
                native.poll(POLL);
                if asked.elapsed() >= SILENCE {
                    let topic = topic.lock().expect("no panic while the lock is held").clone();
                    if native.client().fetch_metadata(topic.as_deref(), SIGN_LIMIT).is_ok() {
                        observer.seen();
                        events.answered();
                    }
                    asked = Instant::now();
                }
            }
        };
        std::thread::Builder::new().name("kafka-producer".into()).spawn(work).expect("a thread can be started");
    }

    /// The producer is broken for good, in its own words.
    pub fn fatal(&self) -> Option<ClientError> {
        self.native.client().fatal_error().map(|(code, reason)| ClientError { code, reason })
    }
}

/// The producer of a lane.
pub async fn idempotent(
    config: &KafkaConfig,
    batch_bytes: usize,
    observer: Arc<dyn Observer>,
) -> Result<Producer, KafkaProblem> {
    let settings = client::producer(config, batch_bytes)?;
    Producer::connect(&settings, config, observer).await
}

/// The producer of an exactly-once pipeline; transactions are not started yet.
pub async fn transactional(
    config: &KafkaConfig,
    batch_bytes: usize,
    id: &str,
    limit: Duration,
    observer: Arc<dyn Observer>,
) -> Result<Producer, KafkaProblem> {
    let settings = client::transactional(config, batch_bytes, id, limit)?;
    Producer::connect(&settings, config, observer).await
}

/// Whether an error says no more than that the producer is broken: another one tells why.
pub fn is_echo(code: Code) -> bool {
    matches!(code, Code::Fatal | Code::PurgeQueue | Code::PurgeInflight | Code::GaplessGuarantee)
}
