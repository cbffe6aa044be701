//! One effect per `(source, id)`: the marker is inserted first, in the same savepoint as the effect.

use super::Inbox;
use crate::connection::{Connection, DatabaseError};

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
    Database(#[from] DatabaseError),
    #[error("handle the event")]
    Handler(#[source] E),
}

impl Inbox {
    /// See [`once`].
    pub async fn once<T, E>(
        &self,
        tx: &mut tokio_postgres::Transaction<'_>,
        source: &str,
        id: &str,
        handler: impl AsyncFnOnce(&mut tokio_postgres::Transaction<'_>) -> Result<T, E>,
    ) -> Result<Once<T>, Error<E>> {
        let mut effect = tx.savepoint("tailwater_inbox").await.map_err(DatabaseError::from)?;
        if !self.mark(&mut effect, source, id).await? {
            effect.rollback().await.map_err(DatabaseError::from)?;
            return Ok(Once::Known);
        }
        match handler(&mut effect).await {
            Ok(value) => {
                effect.commit().await.map_err(DatabaseError::from)?; // releases the savepoint; durable when the caller commits
                Ok(Once::Done(value))
            }
            Err(error) => {
                effect.rollback().await.map_err(DatabaseError::from)?; // the marker goes with the effect
                Err(Error::Handler(error))
            }
        }
    }

    /// See [`once_sqlx`].
    #[cfg(feature = "sqlx")]
    pub async fn once_sqlx<T, E>(
        &self,
        tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
        source: &str,
        id: &str,
        handler: impl AsyncFnOnce(&mut sqlx::Transaction<'_, sqlx::Postgres>) -> Result<T, E>,
    ) -> Result<Once<T>, Error<E>> {
        let mut effect = sqlx::Acquire::begin(tx).await.map_err(DatabaseError::from)?; // a savepoint
        if !self.mark(&mut effect, source, id).await? {
            effect.rollback().await.map_err(DatabaseError::from)?;
            return Ok(Once::Known);
        }
        match handler(&mut effect).await {
            Ok(value) => {
                effect.commit().await.map_err(DatabaseError::from)?;
                Ok(Once::Done(value))
            }
            Err(error) => {
                effect.rollback().await.map_err(DatabaseError::from)?;
                Err(Error::Handler(error))
            }
        }
    }

    /// Writes the marker. False: it was there.
    async fn mark(&self, tx: &mut impl Connection, source: &str, id: &str) -> Result<bool, DatabaseError> {
        // With a parallel transaction about to insert the same key, this waits for its end: no row if it commits, our row
        // if it rolls back (PostgreSQL manual, INSERT, "ON CONFLICT Clause"; under REPEATABLE READ: 40001 instead of no row).
        let sql = format!("INSERT INTO {} (source, id) VALUES ($1, $2) ON CONFLICT DO NOTHING", self.table);
        Ok(tx.run(&sql, &[source, id]).await? == 1)
    }
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
    tx: &mut tokio_postgres::Transaction<'_>,
    source: &str,
    id: &str,
    handler: impl AsyncFnOnce(&mut tokio_postgres::Transaction<'_>) -> Result<T, E>,
) -> Result<Once<T>, Error<E>> {
    Inbox::default().once(tx, source, id, handler).await
}

/// [`once`] for a transaction of sqlx.
///
/// ```no_run
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use tailwater_client::inbox;
///
/// let mut tx = pool.begin().await?;
/// inbox::once_sqlx(&mut tx, "orders", "order-17-placed", async |tx| {
///     sqlx::query("UPDATE stock SET count = count - 1 WHERE item = $1").bind("hat").execute(&mut **tx).await
/// }).await?;
/// tx.commit().await?; // marker and effect together; then acknowledge
/// # Ok(()) }
/// ```
#[cfg(feature = "sqlx")]
pub async fn once_sqlx<T, E>(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    source: &str,
    id: &str,
    handler: impl AsyncFnOnce(&mut sqlx::Transaction<'_, sqlx::Postgres>) -> Result<T, E>,
) -> Result<Once<T>, Error<E>> {
    Inbox::default().once_sqlx(tx, source, id, handler).await
}
