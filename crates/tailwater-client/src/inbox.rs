//! At most one effect per event, however often the broker delivers it.
//!
//! The marker and the effect are written in the caller's transaction, inside one savepoint: they commit together or not at
//! all, also when the caller commits after an error of the handler. What the handler does *outside* the database (mail,
//! HTTP) is not covered: write a row for it here, and send it from that row under an idempotency key of its own.

use crate::name::{NameError, Table};
use std::time::Duration;
use tokio_postgres::{GenericClient, Transaction};

/// What [`once`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// The handler ran, with this result. Commit, then acknowledge.
    Done(T),
    /// An earlier delivery of the same event has committed: nothing was done. Acknowledge.
    Known,
}

/// Why an event was not handled. The marker is not written; acknowledge nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    #[error("write the inbox marker")]
    Database(#[from] tokio_postgres::Error),
    #[error("handle the event")]
    Handler(#[source] E),
}

/// The table of markers; the default is `inbox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    table: Table,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox::new("inbox").expect("a valid name")
    }
}

impl Inbox {
    /// `table` is `name` or `schema.name`.
    pub fn new(table: &str) -> Result<Inbox, NameError> {
        Ok(Inbox { table: Table::new(table)? })
    }

    /// Creates the table if it is missing. Its key is `(source, id)`: two producers may use the same id.
    pub async fn create_table(&self, client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (source text NOT NULL, id text NOT NULL, \
             handled_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (source, id))",
            self.table
        );
        client.batch_execute(&sql).await
    }

    /// See [`once`].
    pub async fn once<T, E>(
        &self,
        tx: &mut Transaction<'_>,
        source: &str,
        id: &str,
        handler: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<Once<T>, Error<E>> {
        let mut effect = tx.savepoint("tailwater_inbox").await?;
        // With a parallel transaction about to insert the same key, this waits for its end: no row if it commits, our row
        // if it rolls back (PostgreSQL manual, INSERT, "ON CONFLICT Clause"; under REPEATABLE READ: 40001 instead of no row).
        let marker = format!("INSERT INTO {} (source, id) VALUES ($1, $2) ON CONFLICT DO NOTHING", self.table);
        if effect.execute(&marker, &[&source, &id]).await? == 0 {
            effect.rollback().await?;
            return Ok(Once::Known);
        }
        match handler(&mut effect).await {
            Ok(value) => {
                effect.commit().await?; // releases the savepoint; durable when the caller commits
                Ok(Once::Done(value))
            }
            Err(error) => {
                effect.rollback().await?; // the marker goes with the effect
                Err(Error::Handler(error))
            }
        }
    }

    /// Deletes markers older than `age` (database time) and returns how many. An event that is delivered again after that
    /// has its effect again: `age` must exceed the longest time a message can wait in a queue, a dead-letter queue or an
    /// archive.
    pub async fn forget_older_than(
        &self,
        client: &impl GenericClient,
        age: Duration,
    ) -> Result<u64, tokio_postgres::Error> {
        let sql = format!("DELETE FROM {} WHERE handled_at < now() - make_interval(secs => $1)", self.table);
        client.execute(&sql, &[&age.as_secs_f64()]).await
    }
}

/// Creates the table `inbox` if it is missing.
pub async fn create_table(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    Inbox::default().create_table(client).await
}

/// Runs `handler` unless the event `(source, id)` was handled before; its marker and the handler's work commit with `tx`.
///
/// `source` says who numbered the event (a queue, a topic, a tenant), `id` is the message's id or idempotency key.
///
/// Of two deliveries in parallel one runs; the other waits for its transaction to end, then skips (commit) or runs
/// (rollback). Bound the wait with `SET LOCAL lock_timeout` where that matters. Acknowledge only after your commit.
///
/// ```no_run
/// # async fn example(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use tailwater_client::inbox::{self, Once};
///
/// let mut tx = client.transaction().await?;
/// let outcome = inbox::once(&mut tx, "orders", "order-17-placed", async |tx| {
///     tx.execute("UPDATE stock SET count = count - 1 WHERE item = $1", &[&"hat"]).await
/// }).await?;
/// tx.commit().await?; // marker and effect together
/// if outcome == Once::Known { /* a duplicate: nothing to do but acknowledge */ }
/// // now acknowledge to the broker
/// # Ok(()) }
/// ```
pub async fn once<T, E>(
    tx: &mut Transaction<'_>,
    source: &str,
    id: &str,
    handler: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>,
) -> Result<Once<T>, Error<E>> {
    Inbox::default().once(tx, source, id, handler).await
}
