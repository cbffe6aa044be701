//! The consumer: one message at a time from RabbitMQ, its effect and its inbox marker in one transaction, then the ack.
//!
//! ```text
//! delivery ─▶ handled, or known ─▶ ack
//!    │  ▲         poison ────────▶ nack(requeue = false) ─▶ dead letters, by the queue's policy
//!    │  └─ wait ◀─ database away (the same delivery again: order is kept)
//!    └─ connection lost: everything unacknowledged is delivered again; the inbox knows what was done
//! ```
//! Sends no mail: see [`crate::mail`].

use crate::database::INBOX_SOURCE;
use crate::export::{self, ReportEvent};
use deadpool_postgres::Pool;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use std::time::Duration;
use tailwater_client::inbox::{self, Once};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Where the worker reads.
#[derive(Clone, Debug)]
pub struct Options {
    pub amqp_url: String,
    pub queue: String,
    /// Messages the broker may hand over ahead.
    pub prefetch: u16,
}

/// The last pause before a report without a row is given up; all pauses together are twice that.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);

/// Why a message was not handled.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This message will never work: to the dead letters with it.
    #[error("the message cannot be handled: {0}")]
    Poison(String),
    /// The report's row is not visible, or not there. Never leaves this module.
    #[error("there is no report with this id yet")]
    NotYet,
    /// Nothing is wrong with the message: try it again.
    #[error("the database is not available: {0}")]
    Away(String),
}

/// Consumes until `stop`; connects again after every loss.
pub async fn run(pool: Pool, options: Options, stop: CancellationToken) {
    let mut wait = Duration::from_millis(200);
    while !stop.is_cancelled() {
        let started = std::time::Instant::now();
        match consume(&pool, &options, &stop).await {
            Ok(()) if stop.is_cancelled() => return,
            Ok(()) => tracing::info!("the broker closed the consumer"),
            Err(error) => tracing::warn!(%error, "broker connection lost"),
        }
        if started.elapsed() > Duration::from_secs(10) {
            wait = Duration::from_millis(200);
        }
        pause(wait, &stop).await;
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

async fn consume(pool: &Pool, options: &Options, stop: &CancellationToken) -> Result<(), lapin::Error> {
    let connection = Connection::connect(&options.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // The same plain declaration as any other consumer's: dead-lettering comes by policy, so it cannot conflict (406).
    channel.queue_declare(options.queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await?;
    channel.basic_qos(options.prefetch, BasicQosOptions::default()).await?;
    let mut deliveries = channel
        .basic_consume(options.queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    tracing::info!(queue = options.queue, "worker is consuming");
    loop {
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            delivery = deliveries.next() => match delivery {
                Some(delivery) => delivery?,
                None => return Ok(()),
            },
        };
        settle(pool, &delivery, stop).await?;
    }
    // What was handed over ahead goes back to the queue when the connection closes.
    connection.close(200, "stopped".into()).await
}

/// Handles one delivery and answers the broker: ack, nack to the dead letters, or (stopped while waiting) back to the queue.
async fn settle(pool: &Pool, delivery: &Delivery, stop: &CancellationToken) -> Result<(), lapin::Error> {
    let mut wait = Duration::from_millis(200);
    loop {
        match handle(pool, &delivery.data).await {
            Ok(_) => {
                delivery.ack(BasicAckOptions::default()).await?;
                return Ok(());
            }
            Err(Failure::Poison(reason)) => {
                tracing::error!(reason, delivery_tag = delivery.delivery_tag, "message goes to the dead letters");
                delivery.nack(BasicNackOptions { requeue: false, multiple: false }).await?;
                return Ok(());
            }
            Err(failure @ (Failure::Away(_) | Failure::NotYet)) => {
                tracing::warn!(reason = %failure, "waiting for the database");
                pause(wait, stop).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
        if stop.is_cancelled() {
            delivery.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
            return Ok(());
        }
    }
}

/// Handles one message body: export, marker and mail row in one transaction. The rows of the export, or [`Once::Known`].
pub async fn handle(pool: &Pool, body: &[u8]) -> Result<Once<i32>, Failure> {
    let event: ReportEvent = serde_json::from_slice(body).map_err(|e| Failure::Poison(shape(&e)))?;
    if event.event_type != "report.requested" {
        return Err(Failure::Poison("an event type that this worker does not know".into()));
    }
    let outcome = once(pool, &event).await;
    if let Err(Failure::Poison(_)) = outcome {
        give_up(pool, event.payload.report_id).await;
    }
    outcome
}

/// As [`attempt`], with patience for a row that is not visible yet: the log can be decoded, published and delivered before
/// the committing session has made its transaction visible to others (T46), much before with synchronous replication.
async fn once(pool: &Pool, event: &ReportEvent) -> Result<Once<i32>, Failure> {
    let mut wait = Duration::from_millis(20);
    loop {
        match attempt(pool, event).await {
            Err(Failure::NotYet) if wait < VISIBLE_WITHIN => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(Failure::NotYet) => return Err(Failure::Poison("there is no report with this id".into())),
            outcome => return outcome,
        }
    }
}

async fn attempt(pool: &Pool, event: &ReportEvent) -> Result<Once<i32>, Failure> {
    let mut client = pool.get().await.map_err(|e| Failure::Away(e.to_string()))?;
    let mut tx = client.transaction().await.map_err(|e| classify(e.code().map(|code| code.code()), &e))?;
    let outcome =
        inbox::once(&mut tx, INBOX_SOURCE, &event.idempotency_key, async |tx| export::build(tx, event).await).await;
    let outcome = outcome.map_err(|e| match e {
        inbox::Error::Database(e) => classify(e.code().as_deref(), &e),
        inbox::Error::Handler(export::Error::Database(e)) => classify(e.code().map(|code| code.code()), &e),
        inbox::Error::Handler(export::Error::NoSuchReport) => Failure::NotYet,
        inbox::Error::Handler(e) => Failure::Poison(e.to_string()),
    })?;
    tx.commit().await.map_err(|e| classify(e.code().map(|code| code.code()), &e))?;
    Ok(outcome)
}

/// The caller of the API shall see that nothing more will come. Best effort: the message's way does not depend on it.
async fn give_up(pool: &Pool, report: Uuid) {
    let Ok(client) = pool.get().await else { return };
    if let Err(error) = export::mark_failed(&**client, report).await {
        tracing::warn!(%error, "mark the report as failed");
    }
}

/// Only what the *values* of this message cause is the message's fault (SQLSTATE classes 22 and 23). Everything else may
/// pass: a lost connection, a deadlock, a table that an operator has yet to create.
fn classify(code: Option<&str>, error: &dyn std::error::Error) -> Failure {
    match code {
        Some(code) if code.starts_with("22") || code.starts_with("23") => {
            Failure::Poison(format!("the database refuses its values ({code})"))
        }
        _ => Failure::Away(error.to_string()),
    }
}

/// What is wrong with a body, without a value of it.
fn shape(error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => format!("a field is missing or has the wrong type ({place})"),
        _ => format!("the body is not JSON ({place})"),
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = stop.cancelled() => {}
    }
}
