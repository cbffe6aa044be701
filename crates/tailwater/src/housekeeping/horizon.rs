//! The delivered horizon: which rows of the outbox have certainly been delivered. Reads positions, deletes nothing.
//!
//! ```text
//!   S = pg_current_snapshot()           every transaction below S.xmin has ended, its commit record is in the log
//!   L = pg_current_wal_insert_lsn()     … and lies before L, since L was read after S
//!   confirmed ≥ L                       so all of them are delivered: a row is, if its xmin is older than S.xmin
//! ```
//!
//! Not `pg_visible_in_snapshot`: it says yes for the rows of an open transaction's savepoints (observed on PostgreSQL 15
//! and 18). A savepoint's xid is always above its transaction's, and that one is not below S.xmin while it is open.

use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error as SqlError};

/// How far a saved horizon may lie behind the current transaction, in transactions. `age()` is a signed 32-bit difference:
/// beyond 2³¹ every row would look delivered. The margin is for what happens between this check and the statement.
pub const AGE_MAX: u64 = (1 << 31) - 10_000_000;

/// A candidate for the horizon: usable as soon as everything before `wal` is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// `pg_snapshot_xmin` of S, 64 bits: rows of older transactions are delivered.
    pub xmin: u64,
    /// L.
    pub wal: PgLsn,
}

/// Takes S, then L. Two statements, so that no planner may turn their order around.
pub async fn take(client: &Client) -> Result<Horizon, SqlError> {
    let row = client.query_one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint", &[]).await?;
    let xmin: i64 = row.get(0);
    let row = client.query_one("SELECT pg_current_wal_insert_lsn()", &[]).await?;
    Ok(Horizon { xmin: xmin.unsigned_abs(), wal: row.get(0) })
}

/// Whether the horizon is recent enough for `age()` to be meaningful.
pub async fn is_comparable(client: &Client, horizon: &Horizon) -> Result<bool, SqlError> {
    let row = client.query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint", &[]).await?;
    let now: i64 = row.get(0);
    Ok(now.unsigned_abs().checked_sub(horizon.xmin).is_some_and(|age| age < AGE_MAX))
}

/// Writes one empty logical message and commits, so that the log moves and is flushed: on a quiet server the end of what
/// is *inserted* may otherwise lie ahead of all that a slot can confirm for 20 s. Any role may (observed on 14, 15, 18).
pub async fn nudge(client: &Client) -> Result<(), SqlError> {
    client.query_one("SELECT pg_logical_emit_message(true, 'tailwater.prune', '')", &[]).await.map(drop)
}

/// What the slots say about a horizon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    Yes,
    /// The slot that is furthest behind, by so many bytes; `active`: somebody reads from it.
    NotYet {
        slot: String,
        behind_bytes: u64,
        active: bool,
    },
    /// No such slot in this database: nothing was delivered through it, or nobody knows what was.
    Missing {
        slot: String,
    },
    /// It will never pass anything again.
    Lost {
        slot: String,
    },
    /// It claims to have passed the end of the log: a position of another server, or moved by hand.
    BeyondEnd {
        slot: String,
    },
}

/// Looks whether all of `slots` have confirmed everything up to the horizon. With several, the lowest decides.
pub async fn reached(client: &Client, slots: &[String], horizon: &Horizon) -> Result<Reached, SqlError> {
    const SLOTS: &str = "SELECT slot_name::text, confirmed_flush_lsn, active, coalesce(wal_status = 'lost', false), \
         pg_current_wal_insert_lsn() FROM pg_replication_slots \
         WHERE slot_type = 'logical' AND database = current_database() AND NOT temporary AND slot_name = ANY($1)";
    let rows = client.query(SLOTS, &[&slots]).await?;
    let mut worst = Reached::Yes;
    for name in slots {
        let Some(row) = rows.iter().find(|row| row.get::<_, &str>(0) == name) else {
            return Ok(Reached::Missing { slot: name.clone() });
        };
        let confirmed: Option<PgLsn> = row.get(1);
        let (active, lost, end): (bool, bool, PgLsn) = (row.get(2), row.get(3), row.get(4));
        let (slot, confirmed) = (name.clone(), confirmed.map_or(0, u64::from));
        if lost {
            return Ok(Reached::Lost { slot });
        }
        if confirmed > u64::from(end) {
            return Ok(Reached::BeyondEnd { slot });
        }
        let behind = u64::from(horizon.wal).saturating_sub(confirmed);
        let known = if let Reached::NotYet { behind_bytes, .. } = &worst { *behind_bytes } else { 0 };
        if behind > known {
            worst = Reached::NotYet { slot, behind_bytes: behind, active };
        }
    }
    Ok(worst)
}

/// Waits until the slots have passed the horizon, at most `limit`; the last answer is returned. `nudging`: move the log of
/// an idle server along. `progress` hears of each look that said not yet.
pub async fn wait(
    client: &Client,
    slots: &[String],
    horizon: &Horizon,
    limit: Duration,
    nudging: bool,
    mut progress: impl FnMut(&Reached),
) -> Result<Reached, SqlError> {
    let deadline = Instant::now() + limit;
    let mut nudged = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let answer = reached(client, slots, horizon).await?;
        if !matches!(answer, Reached::NotYet { .. }) || Instant::now() >= deadline {
            return Ok(answer);
        }
        progress(&answer);
        if nudging && nudged.elapsed() > Duration::from_secs(2) {
            nudge(client).await?;
            nudged = Instant::now();
        }
        tokio::time::sleep(pause.min(deadline - Instant::now())).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
