//! Reading what an event is about, not too early: the event may arrive before its row can be seen.
//!
//! The log can be decoded, published and delivered before the committing session has made its transaction visible to
//! others: by a few microseconds usually, by as long as a standby takes to answer with `synchronous_commit = on` or
//! `remote_apply`. On a read replica it is the replay that lags. A consumer that reads a row at once, then, and finds nothing,
//! should wait; this is how.
//!
//! The producer says which transaction it was, in the outbox row:
//! `ALTER TABLE outbox ADD COLUMN xid text DEFAULT pg_current_xact_id()::text`, which the relay places as a header
//! (`placement = "xid:header"`). A position in the log cannot be known before the commit: that header is the relay's own
//! (`lsn_header = "lsn"`).

use crate::connection::{Connection, DatabaseError};
use std::time::{Duration, Instant};

/// Why the wait ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask the database what it has seen")]
    Database(#[from] DatabaseError),
    #[error("not visible within {0:?}: deliver the event again later")]
    NotYet(Duration),
    #[error("{0:?} is not a position in the log; expected two hex numbers with a slash, such as 0/16B3748")]
    Lsn(String),
}

/// Waits until the transaction `xid` is visible to new snapshots of this connection, on the primary or on a read replica,
/// and at most `limit`. `xid` is the full 64-bit number, as `pg_current_xact_id()` gives it.
///
/// Use it before the transaction that reads, not inside of one whose snapshot was taken before (REPEATABLE READ).
///
/// An outcome that the server has forgotten, hundreds of millions of transactions ago, counts as visible, and so does a transaction
/// that rolled back: there is nothing to wait for.
pub async fn wait_until_visible(connection: &mut impl Connection, xid: u64, limit: Duration) -> Result<(), Error> {
    // pg_xact_status says `committed` only when the transaction is no longer in the list of running ones, hence visible to
    // every snapshot taken from now on. It fails for a number of the future, which on a replica is a normal case. A
    // snapshot's own list of running transactions (pg_visible_in_snapshot) is empty on a replica: of no use there.
    let sql = "SELECT (CASE WHEN $1::xid8 >= pg_snapshot_xmax(pg_current_snapshot()) THEN 'in progress' \
               ELSE coalesce(pg_xact_status($1::xid8), '') END <> 'in progress')::text";
    until(connection, sql, &xid.to_string(), limit).await
}

/// Waits until this connection's server has the log up to `lsn` (as text, `0/16B3748`): replayed it, if it is a replica. At
/// most `limit`. Messages carry one as a header where the relay is told `lsn_header`. On the primary every position that exists is reached; for visibility there use [`wait_until_visible`].
pub async fn wait_for_lsn(connection: &mut impl Connection, lsn: &str, limit: Duration) -> Result<(), Error> {
    let hex = |part: &str| !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    if !lsn.split_once('/').is_some_and(|(high, low)| hex(high) && hex(low)) {
        return Err(Error::Lsn(lsn.into()));
    }
    let sql = "SELECT (coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
               ELSE pg_current_wal_insert_lsn() END, '0/0') >= $1::pg_lsn)::text";
    until(connection, sql, lsn, limit).await
}

/// The primary's log as of now: whatever has committed there so far lies before it. For a consumer that reads from a
/// replica and whose messages carry no position: ask the primary, then [`wait_for_lsn`] on the replica.
pub async fn current_lsn(primary: &mut impl Connection) -> Result<String, Error> {
    let row = primary.row("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    Ok(row.into_iter().next().flatten().unwrap_or_default())
}

/// Asks until the answer to `sql` is true.
async fn until(connection: &mut impl Connection, sql: &str, value: &str, limit: Duration) -> Result<(), Error> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let row = connection.row(sql, &[value]).await?;
        if row.first().is_some_and(|answer| answer.as_deref() == Some("true")) {
            return Ok(());
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(Error::NotYet(limit));
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
