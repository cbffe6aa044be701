//! Who polls which keys: each share of the keys is an advisory lock of the owner's session. Relays count each other by a lock
//! that all of them hold, keep as many shares as is fair, and give the rest back when nothing of it is on its way.
//!
//! A lock ends with its session, so an owner that has lost its session can neither fetch nor be done with rows: that is the
//! fence (T7). An owner that is stopped keeps its session; once the database has not heard of it for the lease, any relay
//! of the same role ends that session. Nothing here reads a clock of ours (T51).

use super::Core;
use super::table::SHARES;
use crate::metrics::State;
use crate::sources::postgres::failure::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Second key of the lock that every relay holds, shared.
const PRESENT: i32 = -1;
/// How often a relay looks at the others; also its sign of life.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The locks of all relays on this table.
struct Locks {
    /// Relays that are there, by the process ids of their sessions.
    present: BTreeSet<i32>,
    owners: BTreeMap<usize, i32>,
    /// Seconds since the database heard of a session; none where our role may not see it.
    silent: BTreeMap<i32, f64>,
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
    let locks = locks(core).await?;
    end_the_dead(core, &locks).await?;
    let fair = SHARES.div_ceil(locks.present.len().max(1));
    let (owned, back) = {
        let mut flight = core.flight();
        (flight.owned().len(), flight.shrink_to(fair))
    };
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
    if gained > 0 {
        tracing::info!(pipeline = %core.status.name, shares = owned + gained, relays = locks.present.len(), "took shares of the keys");
        core.session.bell.notify_one();
    }
    say(core, &locks, owned + gained);
    Ok(())
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
    let sql = "SELECT l.objid::bigint, l.pid, CASE WHEN a.state = 'idle' THEN \
               extract(epoch FROM clock_timestamp() - a.state_change)::float8 END \
               FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = $1 \
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let rows = core.session.client.query(sql, &[&core.table.oid]).await?;
    let mut locks = Locks { present: BTreeSet::new(), owners: BTreeMap::new(), silent: BTreeMap::new() };
    for row in &rows {
        let (object, pid): (i64, i32) = (row.get(0), row.get(1));
        match usize::try_from(object).ok().filter(|share| *share < SHARES) {
            Some(share) => drop(locks.owners.insert(share, pid)),
            None => drop(locks.present.insert(pid)),
        }
        if let Some(seconds) = row.get(2) {
            locks.silent.insert(pid, seconds);
        }
    }
    Ok(locks)
}

/// A session of a relay that has not been heard of for the lease: it looks around every second if it lives.
async fn end_the_dead(core: &Core, locks: &Locks) -> Result<(), Error> {
    let lease = core.lease.as_secs_f64();
    for (pid, seconds) in locks.silent.iter().filter(|(pid, seconds)| **pid != core.session.pid && **seconds > lease) {
        tracing::warn!(
            pid,
            seconds,
            "a relay has not touched its session for longer than the lease: its session is ended"
        );
        // same role: allowed; another one: its operator's business
        let ended = core.session.client.query_one("SELECT pg_terminate_backend($1)", &[pid]).await;
        if let Err(error) = ended {
            tracing::warn!(pid, %error, "the session of that relay cannot be ended: it runs under another role");
        }
    }
    Ok(())
}
