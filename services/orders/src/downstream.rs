//! Who acts on orders: the inventory reserves, the notification service tells the customer. Each event has its effect once.

use crate::consume::{self, Failure, Received};
use crate::event::OrderPlaced;
use crate::listener::downstream_error;
use crate::pattern::Pattern;
use deadpool_postgres::Pool;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tailwater_client::inbox;
use tokio_postgres::Transaction;
use tokio_util::sync::CancellationToken;

/// A consumer of all three topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Inventory,
    Notification,
}

impl Service {
    /// Consumer group, and source of its markers in the inbox.
    pub fn name(self) -> &'static str {
        match self {
            Service::Inventory => "inventory",
            Service::Notification => "notification",
        }
    }
}

/// Handles events until `stop`.
pub async fn run(service: Service, pool: Pool, kafka: ClientConfig, stop: CancellationToken) -> Result<(), KafkaError> {
    let handle = async |record: &Received| handle(service, &pool, record).await;
    consume::run(&kafka, service.name(), &Pattern::ALL.map(Pattern::topic), handle, stop).await
}

async fn handle(service: Service, pool: &Pool, record: &Received) -> Result<(), Failure> {
    let placed = parse(&record.payload)?;
    let mut client = pool.get().await.map_err(|error| Failure::Away(error.to_string()))?;
    let mut tx = client.transaction().await.map_err(|error| classify(&error))?;
    let effect = async |tx: &mut Transaction<'_>| match service {
        Service::Inventory => reserve(tx, &placed).await,
        Service::Notification => notify(tx, &placed).await,
    };
    inbox::once(&mut tx, service.name(), &record.id, effect).await.map_err(downstream_error)?;
    tx.commit().await.map_err(|error| classify(&error))
}

async fn reserve(tx: &mut Transaction<'_>, placed: &OrderPlaced) -> Result<(), tokio_postgres::Error> {
    let quantity = i64::from(placed.quantity);
    tx.execute("UPDATE stock SET count = count - $2 WHERE item = $1", &[&placed.item, &quantity]).await?;
    tx.execute(
        "INSERT INTO reservation (order_id, pattern, item, quantity) VALUES ($1, $2, $3, $4)",
        &[&placed.order_id, &placed.pattern.name(), &placed.item, &placed.quantity],
    )
    .await?;
    Ok(())
}

async fn notify(tx: &mut Transaction<'_>, placed: &OrderPlaced) -> Result<(), tokio_postgres::Error> {
    let text = format!("{}: your order of {} × {} is on its way", placed.customer, placed.quantity, placed.item);
    tx.execute(
        "INSERT INTO notification (order_id, pattern, text) VALUES ($1, $2, $3)",
        &[&placed.order_id, &placed.pattern.name(), &text],
    )
    .await?;
    Ok(())
}

/// The payload of an `order.placed`.
pub(crate) fn parse(payload: &[u8]) -> Result<OrderPlaced, Failure> {
    serde_json::from_slice(payload)
        .map_err(|error| Failure::Poison(format!("no order.placed: line {}, column {}", error.line(), error.column())))
}

/// Only what the *values* of this record cause is the record's fault (SQLSTATE classes 22 and 23).
pub(crate) fn classify(error: &tokio_postgres::Error) -> Failure {
    match error.code().map(|code| code.code()) {
        Some(code) if code.starts_with("22") || code.starts_with("23") => {
            Failure::Poison(format!("the database refuses its values ({code})"))
        }
        _ => Failure::Away(error.to_string()),
    }
}
