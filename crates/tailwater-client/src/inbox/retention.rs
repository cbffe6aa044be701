//! How long markers are kept: longer than any message can wait before it is delivered again.

use super::Inbox;
use crate::connection::{Connection, DatabaseError};
use std::time::Duration;

/// How long to keep markers, and the declared age that makes it long enough.
///
/// ```
/// use std::time::Duration;
/// use tailwater_client::inbox::Retention;
/// const DAY: Duration = Duration::from_secs(24 * 3600);
///
/// // Dead letters are replayed for up to a week here, so seven days are not enough to keep: say fourteen.
/// assert!(Retention::new(14 * DAY, 7 * DAY).is_ok());
/// assert!(Retention::new(3 * DAY, 7 * DAY).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    keep: Duration,
}

/// Markers would be gone before the last delivery of their event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "markers kept for {keep:?}, but an event may be delivered again after {redelivered_within:?}: it would have its effect twice; keep them longer than that"
)]
pub struct RetentionError {
    pub keep: Duration,
    pub redelivered_within: Duration,
}

impl Retention {
    /// Markers are kept for `keep`. `redelivered_within` is the longest time between the first and the last delivery of an
    /// event: what a message can spend in the queue, in its retries, in the dead letters until somebody replays it, or in an
    /// archive. A `keep` that is not longer is refused.
    pub fn new(keep: Duration, redelivered_within: Duration) -> Result<Retention, RetentionError> {
        if keep <= redelivered_within {
            return Err(RetentionError { keep, redelivered_within });
        }
        Ok(Retention { keep })
    }

    /// How long markers are kept. `tailwater dlq replay --inbox-retention` takes the same number.
    pub fn keep(self) -> Duration {
        self.keep
    }
}

/// Markers a statement: small enough to hold no lock for long.
const BATCH: u64 = 5_000;

impl Inbox {
    /// Deletes markers older than `retention` says (by the database's clock) and returns how many. In small statements, each
    /// a transaction of its own if `connection` is not in one; several processes may do it at once.
    ///
    /// A table that is partitioned by `handled_at` cannot have the key `(source, id)` alone, and so cannot recognise an event
    /// across partitions: do not partition it.
    pub async fn prune(&self, connection: &mut impl Connection, retention: Retention) -> Result<u64, DatabaseError> {
        let age_s = format!("{}", retention.keep.as_secs_f64());
        let old = "handled_at < now() - make_interval(secs => $1::float8)";
        let sql = format!(
            "DELETE FROM {table} WHERE {old} AND ctid = ANY (ARRAY(
                 SELECT ctid FROM {table} WHERE {old} LIMIT {BATCH} FOR UPDATE SKIP LOCKED))",
            table = self.table
        );
        let mut forgotten = 0;
        loop {
            let deleted = connection.run(&sql, &[&age_s]).await?;
            forgotten += deleted;
            if deleted < BATCH {
                return Ok(forgotten);
            }
        }
    }
}
