//! Listen to yourself: the order service consumes its own events and applies each order once.

use crate::api::insert_order;
use crate::consume::{self, Failure, Received};
use crate::downstream::{classify, parse};
use crate::pattern::Pattern;
use deadpool_postgres::Pool;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tailwater_client::inbox;
use tokio_util::sync::CancellationToken;

/// Consumer group, and source of the markers in the idempotency table: one for all instances of the service.
pub const GROUP: &str = "orders";

/// Applies the orders of pattern 2 until `stop`.
pub async fn run(pool: Pool, kafka: ClientConfig, stop: CancellationToken) -> Result<(), KafkaError> {
    let apply = async |record: &Received| apply(&pool, record).await;
    consume::run(&kafka, GROUP, &[Pattern::ListenToYourself.topic()], apply, stop).await
}

/// The marker and the order, in one transaction.
async fn apply(pool: &Pool, record: &Received) -> Result<(), Failure> {
    let placed = parse(&record.payload)?;
    let mut client = pool.get().await.map_err(|error| Failure::Away(error.to_string()))?;
    let mut tx = client.transaction().await.map_err(|error| classify(&error))?;
    inbox::once(&mut tx, GROUP, &record.id, async |tx| insert_order(tx, &placed).await)
        .await
        .map_err(downstream_error)?;
    tx.commit().await.map_err(|error| classify(&error))
}

pub(crate) fn downstream_error(error: inbox::Error<tokio_postgres::Error>) -> Failure {
    match error {
        inbox::Error::Handler(error) => classify(&error),
        error => Failure::Away(error.to_string()),
    }
}
