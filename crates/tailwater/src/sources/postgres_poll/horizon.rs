//! Up to where the past is closed: below the floor no row can appear any more, so nothing is looked for there.
//!
//! Values are drawn from the sequence when a row is inserted and appear when its transaction commits: a lower one may
//! appear after a higher one (T1). Every transaction that drew a value up to M was running when M had been seen. Once all
//! transactions of that moment have ended, and the table was looked at once more, the floor is M. A transaction is known
//! here by its virtual id (`pg_locks`, visible to every role), which it has before it has an xid; a prepared one holds its
//! xid's lock without a process. A transaction that stays open holds up the floor and nothing else: rows flow on, looks for
//! late ones become more expensive, and it is named (T2).

use crate::sources::postgres::failure::Error;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

const NAME_AFTER: Duration = Duration::from_secs(30);

/// Where the next looks begin.
#[derive(Debug)]
pub(super) struct Horizon {
    /// The highest order value seen.
    pub cursor: i64,
    pub floor: i64,
    /// Becomes the floor with the next complete look.
    pending: Option<i64>,
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    upto: i64,
    open: BTreeSet<String>,
    since: Instant,
    named: bool,
}

impl Horizon {
    pub fn new() -> Horizon {
        Horizon { cursor: i64::MIN, floor: i64::MIN, pending: None, watched: None }
    }

    /// Everything is to be looked at again: rows that were not ours are ours now.
    pub fn forget(&mut self) {
        *self = Horizon::new();
    }

    /// A look from the floor found all there is up to `seen`; `whole` if it was not cut short.
    pub fn looked(&mut self, seen: Option<i64>, whole: bool) {
        self.cursor = self.cursor.max(seen.unwrap_or(i64::MIN));
        if let Some(pending) = self.pending.filter(|pending| whole || seen.is_some_and(|seen| seen >= *pending)) {
            self.floor = pending;
            self.pending = None;
        }
    }

    /// A look from the cursor on.
    pub fn went_on(&mut self, seen: Option<i64>) {
        self.cursor = self.cursor.max(seen.unwrap_or(i64::MIN));
    }

    /// Something lies between floor and cursor, and nothing is known of it yet.
    pub fn wants_watching(&self) -> bool {
        self.cursor > self.floor && self.pending.is_none()
    }

    /// The transactions that are open now.
    pub fn watch(&mut self, open: BTreeSet<String>) {
        match &self.watched {
            None => {
                let (upto, since) = (self.cursor, Instant::now());
                self.watched = Some(Watched { upto, open, since, named: false });
            }
            Some(watched) if watched.open.is_disjoint(&open) => {
                self.pending = Some(watched.upto);
                self.watched = None;
            }
            Some(_) => {}
        }
    }

    /// Transactions that have held up the floor for long; each time once.
    pub fn stuck(&mut self, open: &BTreeSet<String>) -> Option<(Vec<String>, Duration)> {
        let watched = self.watched.as_mut().filter(|w| !w.named && w.since.elapsed() > NAME_AFTER)?;
        watched.named = true;
        Some((watched.open.intersection(open).cloned().collect(), watched.since.elapsed()))
    }
}

/// Virtual ids of all transactions of the server but our own, and of prepared ones: `vxid (pid …)` each.
pub(super) async fn open_transactions(client: &Client) -> Result<BTreeSet<String>, Error> {
    let sql = "SELECT virtualtransaction || coalesce(' (pid ' || pid || ')', ' (prepared, see pg_prepared_xacts)') \
               FROM pg_catalog.pg_locks WHERE (locktype = 'virtualxid' AND granted AND pid <> pg_catalog.pg_backend_pid()) \
               OR (locktype = 'transactionid' AND pid IS NULL)";
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// T1: the floor passes a value only after everybody who may have drawn a lower one has ended, and one more look.
    #[test]
    fn the_floor_waits_for_those_who_were_there() {
        let mut horizon = Horizon::new();
        horizon.looked(Some(11), true);
        assert!(horizon.wants_watching());
        horizon.watch(open(&["3/5", "4/1"]));
        horizon.watch(open(&["3/5"]));
        horizon.looked(Some(20), true);
        assert_eq!(horizon.floor, i64::MIN, "3/5 may still insert 10");
        horizon.watch(open(&["3/6"]));
        assert_eq!(horizon.floor, i64::MIN, "what 3/5 inserted has not been looked for yet");
        horizon.looked(None, true);
        assert_eq!((horizon.floor, horizon.cursor), (11, 20));
    }

    #[test]
    fn a_look_that_was_cut_short_closes_nothing() {
        let mut horizon = Horizon::new();
        horizon.looked(Some(100), true);
        horizon.watch(open(&[]));
        horizon.watch(open(&[]));
        horizon.looked(Some(50), false);
        assert_eq!(horizon.floor, i64::MIN);
        horizon.looked(Some(100), false);
        assert_eq!(horizon.floor, 100);
    }
}
