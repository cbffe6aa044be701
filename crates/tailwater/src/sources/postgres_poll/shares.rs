//! Who polls which keys: each share of the keys is an advisory lock of the owner's session. Relays count each other by a lock
//! that all of them hold, keep as many shares as is fair, and give the rest back when nothing of it is on its way.
//!
//! A lock ends with its session, so an owner that has lost its session can neither fetch nor be done with rows: that is the
//! fence (T7). An owner that is stopped keeps its session; once nothing was heard of it for the lease, any relay of the
//! same role ends that session. That is measured by how long the database's word of it stays the same, on a monotonic
//! clock: no wall clock, ours or the database's, decides anything (T51).

use super::Core;
use super::table::SHARES;
use crate::metrics::State;
use crate::sources::postgres::failure::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Second key of the lock that every relay holds, shared.
const PRESENT: i32 = -1;
/// How often a relay looks at the others; also its sign of life.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The locks of all relays on this table.
struct Locks {
    /// Relays that are there, by the process ids of their sessions.
    present: BTreeSet<i32>,
    owners: BTreeMap<usize, i32>,
    /// What the database says of sessions that wait for their clients; a session that works, or that our role may not see,
    /// is not among them.
    waiting: BTreeMap<i32, String>,
}

/// Since when the database says the same of a session.
#[derive(Debug, Default)]
pub(super) struct Silence(BTreeMap<i32, (String, Instant)>);

impl Silence {
    /// The sessions that have been silent for longer than `lease`.
    fn longer_than(&mut self, lease: Duration, waiting: &BTreeMap<i32, String>) -> Vec<i32> {
        self.0.retain(|pid, (word, _)| waiting.get(pid) == Some(word));
        for (pid, word) in waiting {
            self.0.entry(*pid).or_insert_with(|| (word.clone(), Instant::now()));
        }
        self.0.iter().filter(|(_, (_, since))| since.elapsed() > lease).map(|(pid, _)| *pid).collect()
    }
}

/// First key: the table. Two relays with different tables never meet.
fn key(core: &Core) -> i32 {
    core.table.oid.cast_signed()
}

/// Says that we are there.
pub(super) async fn arrive(core: &Core) -> Result<(), Error> {
    core.session.client.execute("SELECT pg_advisory_lock_shared($1, $2)", &[&key(core), &PRESENT]).await?;
    Ok(())
}

/// One look around: take what is free and fair, give back what is too much, end who is dead.
pub(super) async fn look(core: &Core) -> Result<(), Error> {
    let began = Instant::now();
    let locks = locks(core).await?;
    core.proven(began);
    end_the_dead(core, &locks).await?;
    let fair = SHARES.div_ceil(locks.present.len().max(1));
    let back = settle(core, fair).await;
    let owned = core.flight().owned().len();
    for share in back {
        give_back(core, share).await?;
    }
    let mut gained = 0;
    for share in (0..SHARES).filter(|share| !locks.owners.contains_key(share)) {
        if owned + gained >= fair {
            break;
        }
        let sql = "SELECT pg_try_advisory_lock($1, $2)";
        if core.session.client.query_one(sql, &[&key(core), &(share as i32)]).await?.get(0) {
            gained += 1;
            let mut horizon = core.horizon.lock().await;
            core.flight().gain(share);
            horizon.forget();
        }
    }
    let owned = core.flight().owned().len();
    if gained > 0 {
        tracing::info!(pipeline = %core.status.name, shares = owned, relays = locks.present.len(), "took shares of the keys");
        core.session.bell.notify_one();
    }
    say(core, &locks, owned);
    Ok(())
}

/// Decides which shares are to be given back, and returns those that can be at once. One that stays after all was not
/// looked at meanwhile: all is looked at again.
async fn settle(core: &Core, fair: usize) -> Vec<usize> {
    let mut horizon = core.horizon.lock().await;
    let mut flight = core.flight();
    let before = flight.active();
    let back = flight.shrink_to(fair);
    if flight.active().iter().any(|share| !before.contains(share)) {
        horizon.forget();
        core.session.bell.notify_one();
    }
    back
}

fn say(core: &Core, locks: &Locks, owned: usize) {
    core.status.source_seen.touch();
    if owned > 0 {
        return core.status.set_state(State::Streaming);
    }
    let pids: BTreeSet<String> = locks.owners.values().map(i32::to_string).collect();
    let pids: Vec<String> = pids.into_iter().collect();
    let holder = format!("all keys are polled by the sessions with pid {}", pids.join(", "));
    core.status.set_state(State::Standby { holder });
}

/// The lock goes only while nothing is being fetched and nothing of the share is on its way.
async fn give_back(core: &Core, share: usize) -> Result<(), Error> {
    let _no_fetch = core.horizon.lock().await;
    core.flight().lose(share);
    core.session.client.execute("SELECT pg_advisory_unlock($1, $2)", &[&key(core), &(share as i32)]).await?;
    Ok(())
}

async fn locks(core: &Core) -> Result<Locks, Error> {
    // a stopped relay's session waits for the next statement, or for somebody to take its rows
    let sql = "SELECT l.objid::bigint, l.pid, CASE WHEN a.state = 'idle' OR a.wait_event_type = 'Client' \
               THEN a.backend_start || '/' || a.state_change END \
               FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = $1 \
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let rows = core.session.client.query(sql, &[&core.table.oid]).await?;
    let mut locks = Locks { present: BTreeSet::new(), owners: BTreeMap::new(), waiting: BTreeMap::new() };
    for row in &rows {
        let (object, pid): (i64, i32) = (row.get(0), row.get(1));
        match usize::try_from(object).ok().filter(|share| *share < SHARES) {
            Some(share) => drop(locks.owners.insert(share, pid)),
            None => drop(locks.present.insert(pid)),
        }
        if let Some(word) = row.get(2) {
            locks.waiting.insert(pid, word);
        }
    }
    Ok(locks)
}

/// A session of a relay that has not been heard of for the lease: it looks around every second if it lives.
async fn end_the_dead(core: &Core, locks: &Locks) -> Result<(), Error> {
    let silent = core.silence.lock().expect("no panic while the lock is held").longer_than(core.lease, &locks.waiting);
    for pid in silent.into_iter().filter(|pid| *pid != core.session.pid) {
        tracing::warn!(
            pipeline = %core.status.name, pid,
            "a relay has not touched its session for longer than the lease: its session is ended"
        );
        // same role: allowed; another one: its operator's business
        let ended = core.session.client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await;
        if let Err(error) = ended {
            tracing::warn!(pid, %error, "the session of that relay cannot be ended: it runs under another role");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [i32; 0] = [];

    /// T7 T51: what counts is how long the word stays the same, whatever time it tells.
    #[tokio::test(start_paused = true)]
    async fn a_session_is_dead_when_nothing_new_was_heard_of_it_for_the_lease() {
        let lease = Duration::from_secs(10);
        let mut silence = Silence::default();
        let word = |n: u32| BTreeMap::from([(7, format!("2026-01-01 0{n}:00")), (8, "1970-01-01".to_owned())]);
        for second in 0..=10 {
            // the clock of the database jumps an hour with each look, forwards and back
            assert_eq!(silence.longer_than(lease, &word(second % 3)), NOBODY, "after {second} s");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(silence.longer_than(lease, &word(0)), [8]);
        assert_eq!(silence.longer_than(lease, &BTreeMap::new()), NOBODY, "it works, or has left");
        assert_eq!(silence.longer_than(lease, &word(0)), NOBODY, "and then it counts from anew");
    }
}
