//! The service under test, a process of its own so that `kill -9` is real: `tailwater lab-service PATTERN`.
//!
//! It takes orders as lines on standard input and answers each with a line. After the line `arm` the next order stops at
//! the pattern's weak point (between its two writes, or before its commit) and says so, to be killed there.

use super::pattern::Pattern;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tailwater_client::outbox::{self, Event, Outbox};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A request gives up on the broker after this long, as a request would that a customer waits for.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// An order.
pub(super) const INSERT: &str = "INSERT INTO orders (id, requested_us) VALUES ($1, $2)";
/// Requests at a time: those that wait for a broker that is away do not keep others out.
const PARALLEL: usize = 64;
/// Sessions of a process.
const SESSIONS: usize = 16;

/// One order as the driver asks for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub id: Uuid,
    /// When it was asked for, µs since 1970.
    pub requested_us: i64,
}

impl Order {
    /// The next one that the seed decides, asked for now.
    pub fn next(random: &mut impl rand::RngCore) -> Order {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        Order { id: uuid::Builder::from_random_bytes(bytes).into_uuid(), requested_us: super::now_us() }
    }

    /// As the service takes it.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("plain fields are JSON") + "\n"
    }
}

/// Where the service finds its servers.
#[derive(Clone, Debug)]
pub struct Places {
    pub pattern: Pattern,
    pub database_url: String,
    pub bootstrap: String,
}

struct Service {
    pattern: Pattern,
    pool: Pool,
    producer: FutureProducer,
    outbox: Outbox,
    armed: AtomicBool,
}

/// Runs until standard input ends.
pub async fn run(places: Places) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = Arc::new(Service {
        pattern: places.pattern,
        pool: pool(&places.database_url, "lab-service")?,
        producer: ClientConfig::new()
            .set("bootstrap.servers", &places.bootstrap)
            .set("broker.address.family", "v4")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("reconnect.backoff.max.ms", "500")
            .create()?,
        outbox: Outbox::new("outbox")?,
        armed: AtomicBool::new(false),
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let room = Arc::new(Semaphore::new(PARALLEL));
    println!("ready");
    while let Some(line) = lines.next_line().await? {
        if line == "arm" {
            service.armed.store(true, SeqCst);
            continue;
        }
        let order: Order = serde_json::from_str(&line)?;
        let (service, permit) = (service.clone(), room.clone().acquire_owned().await?);
        tokio::spawn(async move {
            match service.place(&order).await {
                Ok(()) => println!("ok {}", order.id),
                Err(error) => println!("failed {} {error}", order.id),
            }
            drop(permit);
        });
    }
    Ok(())
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Service {
    async fn place(&self, order: &Order) -> Outcome {
        match self.pattern {
            Pattern::DatabaseFirst => {
                self.insert(order).await?;
                self.weak_point(order).await;
                self.publish(order).await
            }
            Pattern::BrokerFirst => {
                self.publish(order).await?;
                self.weak_point(order).await;
                self.insert(order).await
            }
            Pattern::Polling | Pattern::LogTailing => self.both(order).await,
            Pattern::ListenToYourself => self.event_alone(order).await,
        }
    }

    /// The order by itself, committed.
    async fn insert(&self, order: &Order) -> Outcome {
        let client = self.pool.get().await?;
        let insert = client.prepare_cached(INSERT).await?;
        client.execute(&insert, &[&order.id, &order.requested_us]).await?;
        Ok(())
    }

    /// The event by itself, confirmed by the broker or given up.
    async fn publish(&self, order: &Order) -> Outcome {
        let (id, body) = (order.id.to_string(), payload(order).to_string());
        let header = rdkafka::message::Header { key: "id", value: Some(&id) };
        let headers = rdkafka::message::OwnedHeaders::new().insert(header);
        let record = FutureRecord::to(self.pattern.name()).key(&id).payload(&body).headers(headers);
        self.producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
        Ok(())
    }

    /// Order and event in one transaction.
    async fn both(&self, order: &Order) -> Outcome {
        let mut client = self.pool.get().await?;
        let mut tx = client.transaction().await?;
        tx.execute(INSERT, &[&order.id, &order.requested_us]).await?;
        self.weak_point(order).await;
        self.write_event(&mut tx, order).await?;
        Ok(tx.commit().await?)
    }

    /// The event, in a transaction; the order follows when it is heard.
    async fn event_alone(&self, order: &Order) -> Outcome {
        let mut client = self.pool.get().await?;
        let mut tx = client.transaction().await?;
        self.write_event(&mut tx, order).await?;
        self.weak_point(order).await;
        Ok(tx.commit().await?)
    }

    async fn write_event(
        &self,
        tx: &mut deadpool_postgres::Transaction<'_>,
        order: &Order,
    ) -> Result<(), outbox::Error> {
        let id = order.id.to_string();
        let event = Event::new("order.placed", payload(order)).with_id(&id).about(self.pattern.name(), &id);
        self.outbox.publish(&mut **tx, &event).await
    }

    /// If armed: says where it stands, and stays there until it is killed.
    async fn weak_point(&self, order: &Order) {
        if self.armed.swap(false, SeqCst) {
            println!("point {}", order.id);
            std::future::pending::<()>().await;
        }
    }
}

fn payload(order: &Order) -> serde_json::Value {
    json!({ "id": order.id, "requested_us": order.requested_us })
}

/// A pool that finds the database again after it was away.
pub(super) fn pool(url: &str, name: &str) -> Result<Pool, Box<dyn std::error::Error + Send + Sync>> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.application_name(name).connect_timeout(PATIENCE);
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config, tokio_postgres::NoTls, recycling);
    Ok(Pool::builder(manager).max_size(SESSIONS).build()?)
}
