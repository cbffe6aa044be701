//! Standing by: another process holds the slot, or is taking the first snapshot. It is named, and followed at once when it
//! leaves; a holder that was stopped and will never leave is ended.
//!
//! Waiting costs no walsender: it asks over the process's shared SQL session, and connects again when the slot is free.
//!
//! When is a holder dead? Ours sends a status every second at least, whatever else it does, and the server shows the time
//! of the last one (`pg_stat_replication.reply_time`). A walsender that is busy decoding does not read them, so its word is old
//! without meaning anything; one that waits for WAL or for its peer reads each of them at once. So a holder is dead if, seen
//! *while its walsender waits*, its last status is the one that was seen at least [`SILENT_AFTER`] ago. The times themselves
//! are not compared with any clock, only with each other. Another program's holder, or another role's, is never touched.

use super::client::Client;
use super::failure::Error;
use super::open::Opening;
use super::shared::{Shared, shared};
use crate::metrics::State;
use postgres_protocol::escape::escape_literal;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Five times the longest interval between two statuses of ours.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// A walsender that was told to end, and is stuck in a write, needs telling again.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// First half of the advisory lock's key; the second is the slot's name, hashed.
const LOCK_CLASS: i32 = i32::from_be_bytes(*b"tail");

/// Waits until nobody holds the slot, or until it is gone.
pub(super) async fn for_slot(opening: &Opening) -> Result<(), Error> {
    let mut silence = Silence::default();
    loop {
        let session = shared(&opening.target).await?;
        let Some(look) = look(&session, opening).await? else { return Ok(()) };
        opening.link.status.source_seen.touch();
        opening.link.status.set_state(State::Standby { holder: look.describe() });
        if silence.judge(&look, Instant::now()) {
            tracing::warn!(
                slot = %opening.config.slot, holder = %look.holder,
                "the holder gives no sign of life: its session is ended, this process takes over"
            );
            terminate(&session, opening, &look).await?;
            sleep(TELL_AGAIN).await;
        } else {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// One look at who holds the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    pid: i32,
    /// Who it is, in words.
    holder: String,
    /// A process id is used again by and by; with its start it is unique.
    started: Option<String>,
    /// Time of the last status, as its sender wrote it.
    replied: Option<String>,
    /// It would have read a status that had come.
    waiting: bool,
    /// Tailwater, and of our own role.
    ours: bool,
}

async fn look(session: &Shared, opening: &Opening) -> Result<Option<Look>, Error> {
    let sql = "SELECT s.active_pid, concat_ws(', ', 'pid ' || s.active_pid, 'application ' || nullif(a.application_name, ''), \
               'role ' || a.usename, 'from ' || host(a.client_addr), \
               'since ' || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')), \
               a.backend_start::text, r.reply_time::text, coalesce(lower(a.wait_event) IN \
               ('walsenderwaitforwal', 'walsenderwritedata', 'walsendermain'), false), \
               coalesce(a.usename = current_user AND a.application_name = 'tailwater', false) \
               FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
               LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid \
               WHERE s.slot_name = $1 AND s.active_pid IS NOT NULL";
    let row = session.query_opt(sql, &[&opening.config.slot]).await?;
    Ok(row.map(|row: Row| Look {
        pid: row.get(0),
        holder: row.get(1),
        started: row.get(2),
        replied: row.get(3),
        waiting: row.get(4),
        ours: row.get(5),
    }))
}

impl Look {
    fn describe(&self) -> String {
        self.holder.clone()
    }
}

/// Ends the session of a dead holder, if it is still the very one that was judged.
async fn terminate(session: &Shared, opening: &Opening, look: &Look) -> Result<(), Error> {
    let sql = "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_replication_slots s \
               JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
               LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = a.pid WHERE s.slot_name = $1 AND a.pid = $2 \
               AND a.backend_start::text = $3 AND (r.pid IS NULL OR r.reply_time::text IS NOT DISTINCT FROM $4)";
    session.query(sql, &[&opening.config.slot, &look.pid, &look.started, &look.replied]).await?;
    Ok(())
}

/// Since when a holder has said nothing new.
#[derive(Debug, Default)]
struct Silence {
    last: Option<(Look, Instant)>,
    /// Judged dead once already: the second time in a row counts.
    once: bool,
    told: bool,
}

impl Silence {
    /// Takes a look into account; true: the holder is dead.
    fn judge(&mut self, look: &Look, now: Instant) -> bool {
        let same =
            |known: &Look| (known.pid, &known.started, &known.replied) == (look.pid, &look.started, &look.replied);
        let since = match &self.last {
            Some((known, since)) if same(known) => *since,
            _ => {
                *self = Silence { last: Some((look.clone(), now)), ..Silence::default() };
                return false;
            }
        };
        if self.told {
            // Its walsender may be stuck in saying goodbye, and shows another wait.
            return true;
        }
        let dead = look.ours && look.waiting && look.started.is_some() && now - since >= SILENT_AFTER;
        self.told = dead && self.once;
        self.once = dead;
        self.told
    }
}

/// Claims the first snapshot: without a slot nothing else keeps two processes from publishing the same rows side by side.
/// The claim ends with the connection.
pub(super) async fn claim_snapshot(client: &mut Client, slot: &str) -> Result<bool, Error> {
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {})", key(slot));
    let rows = client.query(&sql).await?;
    Ok(rows.first().and_then(|row| row.text(0)) == Some("t"))
}

/// The slot exists: from now on it is the lock.
pub(super) async fn release_snapshot(client: &mut Client) -> Result<(), Error> {
    client.query("SELECT pg_catalog.pg_advisory_unlock_all()").await.map(drop)
}

/// Waits until the slot exists, or nobody takes the snapshot any more.
pub(super) async fn for_snapshot(opening: &Opening) -> Result<(), Error> {
    let slot = &opening.config.slot;
    let sql = format!(
        "SELECT concat_ws(', ', 'pid ' || l.pid, 'role ' || a.usename, 'from ' || host(a.client_addr)) \
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {LOCK_CLASS}::oid AND l.objid = ({})::int4::oid \
         AND l.objsubid = 2 AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = {})",
        key(slot),
        escape_literal(slot)
    );
    loop {
        let session = shared(&opening.target).await?;
        let Some(row) = session.query_opt(&sql, &[]).await? else { return Ok(()) };
        opening.link.status.source_seen.touch();
        opening
            .link
            .status
            .set_state(State::Standby { holder: format!("{} (takes the snapshot)", row.get::<_, &str>(0)) });
        sleep(LOOK_EVERY).await;
    }
}

/// FNV-1a of the slot's name; negative for every second one.
fn key(slot: &str) -> i32 {
    slot.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Look {
        Look {
            pid: 1,
            started: Some("then".into()),
            replied: Some("12:00:00".into()),
            waiting: true,
            ours: true,
            ..Look::default()
        }
    }

    /// Looks once a second; true: it was judged dead at the end.
    fn dead_after(looks: impl Iterator<Item = Look>) -> bool {
        let (mut silence, start) = (Silence::default(), Instant::now());
        looks.enumerate().map(|(second, look)| silence.judge(&look, start + LOOK_EVERY * second as u32)).last().unwrap()
    }

    #[test]
    fn only_a_holder_of_ours_that_says_nothing_while_its_walsender_waits_is_dead() {
        assert!(dead_after((0..7).map(|_| silent())));
        assert!(!dead_after((0..5).map(|_| silent())), "not before its time");
        assert!(!dead_after((0..100).map(|_| Look { waiting: false, ..silent() })), "busy decoding");
        assert!(!dead_after((0..100).map(|_| Look { ours: false, ..silent() })), "another program or role");
        assert!(!dead_after((0..100).map(|i| Look { replied: Some(format!("{}", i / 4)), ..silent() })), "slow, alive");
        assert!(!dead_after((0..100).map(|i| Look { started: Some(format!("{}", i / 4)), ..silent() })), "another one");
        assert!(!dead_after((0..100).map(|i| Look { waiting: i % 2 == 0, ..silent() })), "not twice in a row");
        let stuck = (0..7).map(|_| silent()).chain((0..3).map(|_| Look { waiting: false, ..silent() }));
        assert!(dead_after(stuck), "told to end, stuck in a write: told again");
    }
}
