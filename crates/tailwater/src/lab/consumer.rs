//! The consumer of a pattern, a process of its own: `tailwater lab-consumer PATTERN`.
//!
//! Each delivery is noted before the inbox (table `seen`), then has its effect behind the inbox (table `effect`). In
//! "listen to yourself" a second one (`--apply`) writes the orders. Not a model of a good consumer: see `services/orders`.

use super::pattern::Pattern;
use super::service::{INSERT, Order, Places, pool};
use deadpool_postgres::Pool;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Headers, Message};
use std::time::Duration;
use tailwater_client::inbox;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs until it is killed.
pub async fn run(places: Places, apply: bool) -> Outcome<()> {
    let pool = pool(&places.database_url, "lab-consumer")?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &places.bootstrap)
        .set("broker.address.family", "v4")
        .set("group.id", format!("{}-{}", places.pattern.name(), if apply { "service" } else { "consumer" }))
        // a member that was killed is given up after this time, and the next one takes over
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "500")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
        .set("reconnect.backoff.max.ms", "500")
        .create()?;
    consumer.subscribe(&[places.pattern.name()])?;
    loop {
        let record = match consumer.recv().await {
            Ok(record) => record,
            // it will not receive again: what ends is seen
            Err(error) if consumer.client().fatal_error().is_some() => return Err(error.into()),
            Err(error) => {
                wait(&error).await;
                continue;
            }
        };
        let id = record.headers().and_then(|headers| headers.iter().find(|header| header.key == "id"));
        let id = id.and_then(|header| std::str::from_utf8(header.value?).ok()).ok_or("a record without an id")?;
        let order: Order = serde_json::from_slice(record.payload().ok_or("a record without a value")?)?;
        // the database may be away for a while: the record waits
        while let Err(error) = if apply { Ok(()) } else { note(&pool, &order).await } {
            wait(&*error).await;
        }
        while let Err(error) = handle(&pool, places.pattern, id, &order, apply).await {
            wait(&*error).await;
        }
        consumer.store_offset_from_message(&record)?;
    }
}

async fn wait(error: &(dyn std::error::Error + Send + Sync)) {
    eprintln!("{error}");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// Before the inbox: this delivery was here.
async fn note(pool: &Pool, order: &Order) -> Outcome<()> {
    let sql = "INSERT INTO seen (id, requested_us) VALUES ($1, $2)";
    pool.get().await?.execute(sql, &[&order.id, &order.requested_us]).await?;
    Ok(())
}

/// Behind the inbox: its effect.
async fn handle(pool: &Pool, pattern: Pattern, id: &str, order: &Order, apply: bool) -> Outcome<()> {
    let mut client = pool.get().await?;
    let mut tx = client.transaction().await?;
    let sql = if apply { INSERT } else { "INSERT INTO effect (id, requested_us) VALUES ($1, $2)" };
    inbox::once(&mut tx, pattern.name(), id, async |tx| tx.execute(sql, &[&order.id, &order.requested_us]).await)
        .await?;
    Ok(tx.commit().await?)
}
