//! Outbox and inbox for services that share a database transaction with their events.
//!
//! - [`outbox::publish`] writes an event in *your* transaction, as a row of the outbox table or as a message in the log: it
//!   goes out if and only if the transaction commits. A relay (`tailwater run`) carries it to the broker.
//! - [`inbox::once`] runs a handler at most once per `(source, id)`, in *your* transaction: marker and effect commit together.
//! - [`inbox::prune`] forgets old markers, never earlier than the longest redelivery that you declare.
//! - [`wait_until_visible`] and [`wait_for_lsn`] are for a consumer that reads what the event is about.
//!
//! Transactions are tokio-postgres's (deadpool's as `&mut *tx`), and with the feature `sqlx` sqlx's. There is no variant that takes a plain connection: a
//! marker or an event outside the business transaction cannot be written by mistake.
//!
//! Not here: connections, pools, brokers, retries. A worker receives, calls [`inbox::once`], commits, then acknowledges:
//!
//! ```no_run
//! # struct Message { id: String, body: serde_json::Value }
//! # impl Message { async fn ack(self) {} }
//! # #[derive(Debug, thiserror::Error)]
//! # enum OrderError { #[error("query")] Query(#[from] tokio_postgres::Error), #[error("publish")] Publish(#[from] tailwater_client::outbox::Error) }
//! # async fn place(tx: &mut tokio_postgres::Transaction<'_>, body: &serde_json::Value) -> Result<(), tokio_postgres::Error> { Ok(()) }
//! # async fn worker(client: &mut tokio_postgres::Client, message: Message) -> Result<(), Box<dyn std::error::Error>> {
//! use tailwater_client::inbox;
//! use tailwater_client::outbox::{self, Event};
//!
//! let mut tx = client.transaction().await?;
//! inbox::once(&mut tx, "orders", &message.id, async |tx| {
//!     place(tx, &message.body).await?; // the effect
//!     let follow_up = Event::new("stock.reserved", message.body.clone()).about("stock", "hat");
//!     outbox::publish(tx, &follow_up).await?; // goes out if and only if the effect commits
//!     Ok::<(), OrderError>(())
//! }).await?;
//! tx.commit().await?;
//! message.ack().await;
//! # Ok(()) }
//! ```

mod connection;
pub mod inbox;
mod name;
pub mod outbox;
mod visible;

pub use connection::{Connection, DatabaseError, Transaction};
pub use name::{NameError, Table};
pub use visible::{Error as WaitError, current_lsn, wait_for_lsn, wait_until_visible};
