//! What of the past is still open: where a row may yet appear that was not seen.
//!
//! ```text
//!   values    1 2 3 4 5 6 7 8 9 …                     a look reads the gaps and all behind the cursor, in one snapshot,
//!   seen      x x     x x   x          cursor = 8      so of two rows of a key, the one committed first never comes second
//!   gaps          3-4     7
//! ```
//!
//! Values are drawn from the sequence when a row is inserted and appear when its transaction commits: a lower one may
//! appear after a higher one (T1), or never. Whoever draws a value holds a lock on the sequence (`RowExclusiveLock`) until
//! its transaction ends, a prepared one too, and also after a savepoint was rolled back. So once all transactions that held
//! it when M was the highest value seen have ended, and the gaps were looked at once more, nothing appears below M any more:
//! those gaps are closed. A transaction that stays open keeps gaps open and nothing else; rows flow on, and it is named
//! (T2). Sessions that did not insert into this table, whatever else they do, do not matter.
//!
//! Pure, but for [`holders`]. Where values are not drawn one by one (`CACHE`, no sequence) nothing is ever closed.

use crate::sources::postgres::failure::Error;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// With more gaps than this, those next to each other are joined: values between them are then looked at again.
const GAPS_MAX: usize = 128;

/// A transaction that holds the sequence's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Virtual transaction id.
    pub id: String,
    pub pid: Option<i32>,
    /// `pid 7, open for 12 s`, or the name of a prepared transaction.
    pub shown: String,
}

/// Where the next look looks.
#[derive(Debug)]
pub(super) struct Horizon {
    /// The highest value seen.
    cursor: i64,
    /// Ranges up to the cursor without a value that was seen; ascending, both ends included.
    gaps: Vec<(i64, i64)>,
    /// Gaps were joined: they hold values that were seen.
    joined: bool,
    /// Closed with the next look that sees all of the gaps.
    closing: Option<i64>,
    watched: Option<Watched>,
    /// Since when it has looked without forgetting, and whether the last look saw everything.
    since: Instant,
    whole: bool,
}

#[derive(Debug)]
struct Watched {
    upto: i64,
    /// By id; whether it is a prepared one.
    open: BTreeMap<String, bool>,
    since: Instant,
}

impl Horizon {
    pub fn new() -> Horizon {
        let since = Instant::now();
        let (gaps, closing, watched) = (Vec::new(), None, None);
        Horizon { cursor: i64::MIN, gaps, joined: false, closing, watched, since, whole: false }
    }

    /// Everything is to be looked at again.
    pub fn forget(&mut self) {
        *self = Horizon::new();
    }

    /// Nothing was left to see at the last look, nobody keeps gaps open, and the last fresh start is that long ago.
    pub fn is_stale(&self, age: Duration) -> bool {
        let held = self.watched.as_ref().is_some_and(|watched| watched.since.elapsed() > Duration::from_secs(1));
        self.whole && !held && self.since.elapsed() > age
    }

    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    pub fn gaps(&self) -> &[(i64, i64)] {
        &self.gaps
    }

    /// Whether rows that are known already may be among those of the gaps.
    pub fn is_joined(&self) -> bool {
        self.joined
    }

    /// A look has seen these values, ascending. `gaps`, `end`: it saw all that was in the gaps, and all behind the cursor.
    pub fn looked(&mut self, seen: &[i64], gaps: bool, end: bool) {
        let late = seen.partition_point(|value| *value <= self.cursor);
        seen[..late].iter().for_each(|value| self.fill(*value));
        if let Some(closed) = self.closing.filter(|_| gaps) {
            self.close(closed);
        }
        for value in &seen[late..] {
            let from = if self.cursor == i64::MIN { i64::MIN } else { self.cursor + 1 };
            if from < *value {
                self.gaps.push((from, *value - 1));
            }
            self.cursor = *value;
        }
        self.whole = gaps && end;
        self.join();
    }

    fn fill(&mut self, value: i64) {
        let at = self.gaps.partition_point(|(_, high)| *high < value);
        let Some((low, high)) = self.gaps.get(at).copied().filter(|(low, _)| *low <= value) else { return };
        let left = (low < value).then(|| (low, value - 1));
        let right = (value < high).then(|| (value + 1, high));
        self.gaps.splice(at..=at, left.into_iter().chain(right));
    }

    fn close(&mut self, upto: i64) {
        self.closing = None;
        self.gaps.retain(|(_, high)| *high > upto);
        if let Some(first) = self.gaps.first_mut() {
            first.0 = first.0.max(upto + 1);
        }
        self.joined &= !self.gaps.is_empty();
    }

    /// Joins the gaps that lie closest, down to half of the limit.
    fn join(&mut self) {
        if self.gaps.len() <= GAPS_MAX {
            return;
        }
        let between = |pair: &[(i64, i64)]| i128::from(pair[1].0) - i128::from(pair[0].1);
        let mut distances: Vec<i128> = self.gaps.windows(2).map(between).collect();
        distances.sort_unstable();
        let nearest = distances[self.gaps.len() - GAPS_MAX / 2];
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(GAPS_MAX);
        for gap in self.gaps.drain(..) {
            match joined.last_mut() {
                Some(last) if i128::from(gap.0) - i128::from(last.1) <= nearest => last.1 = gap.1,
                _ => joined.push(gap),
            }
        }
        self.gaps = joined;
        self.joined = true;
    }

    /// Gaps are open, and it is not yet known up to where they may be closed. The answer goes to [`Horizon::watch`]
    /// together with the holders that are looked up *after* this call: with a later value, one that began in between and
    /// drew a lower value would be overlooked.
    pub fn to_watch(&self) -> Option<i64> {
        (!self.gaps.is_empty() && self.closing.is_none()).then_some(self.cursor)
    }

    /// The holders there were at some moment after `upto` had been seen.
    pub fn watch(&mut self, upto: i64, holders: &[Holder]) {
        let open: BTreeMap<String, bool> = holders.iter().map(|h| (h.id.clone(), h.pid.is_none())).collect();
        let since = Instant::now();
        let watched = self.watched.get_or_insert_with(|| Watched { upto, open: open.clone(), since });
        let mut session_left = false;
        watched.open.retain(|id, prepared| {
            let stays = open.contains_key(id);
            session_left |= !stays && !*prepared;
            stays
        });
        if session_left {
            // with PREPARE TRANSACTION it may have got another id
            watched.open.extend(open.into_iter().filter(|(_, prepared)| *prepared));
        }
        if watched.open.is_empty() {
            self.closing = Some(watched.upto);
            self.watched = None;
        }
    }

    /// Those who have kept gaps open for longer than `limit`, and for how long.
    pub fn stuck<'a>(&self, holders: &'a [Holder], limit: Duration) -> Option<(Vec<&'a str>, Duration)> {
        let watched = self.watched.as_ref().filter(|watched| watched.since.elapsed() > limit)?;
        let those = holders.iter().filter(|holder| watched.open.contains_key(&holder.id));
        Some((those.map(|holder| holder.shown.as_str()).collect(), watched.since.elapsed()))
    }
}

/// Who holds the sequence's lock, prepared transactions included. `pg_locks` is visible to every role.
pub(super) async fn holders(client: &Client, sequence: u32) -> Result<Vec<Holder>, Error> {
    const SQL: &str = "SELECT l.virtualtransaction, l.pid, \
         extract(epoch FROM clock_timestamp() - a.xact_start)::bigint, a.application_name, \
         CASE WHEN l.pid IS NULL THEN (SELECT p.gid FROM pg_catalog.pg_locks t JOIN pg_catalog.pg_prepared_xacts p \
           ON p.transaction = t.transactionid WHERE t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction LIMIT 1) END \
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'relation' AND l.relation = $1 AND l.mode = 'RowExclusiveLock' AND l.granted \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
    let rows = client.query(SQL, &[&sequence]).await?;
    let holder = |row: &tokio_postgres::Row| {
        let (pid, age): (Option<i32>, Option<i64>) = (row.get(1), row.get(2));
        let (name, gid): (Option<&str>, Option<&str>) = (row.get(3), row.get(4));
        let name = name.filter(|name| !name.is_empty()).map_or(String::new(), |name| format!(" ({name})"));
        let age = age.map_or(String::new(), |age| format!(", open for {age} s"));
        let shown = match pid {
            Some(pid) => format!("pid {pid}{name}{age}"),
            None => format!("the prepared transaction '{}'", gid.unwrap_or("?")),
        };
        Holder { id: row.get(0), pid, shown }
    };
    Ok(rows.iter().map(holder).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ids: &[&str]) -> Vec<Holder> {
        let holder = |id: &&str| Holder {
            id: (*id).to_owned(),
            pid: (!id.starts_with('-')).then_some(7),
            shown: (*id).to_owned(),
        };
        ids.iter().map(holder).collect()
    }

    /// T1: gaps are closed only after everybody who may have drawn a value in them has ended, and one more look.
    #[test]
    fn a_gap_waits_for_those_who_were_there() {
        let mut horizon = Horizon::new();
        horizon.looked(&[9, 11], true, true);
        assert_eq!(horizon.gaps(), [(i64::MIN, 8), (10, 10)]);
        let upto = horizon.to_watch().unwrap();
        horizon.watch(upto, &open(&["3/5", "4/1"]));
        horizon.watch(upto, &open(&["3/5"]));
        horizon.looked(&[20], true, true);
        assert_eq!(horizon.gaps().len(), 3, "3/5 may still commit 10");
        horizon.watch(20, &open(&["3/6"]));
        assert_eq!(horizon.gaps().len(), 3, "what 3/5 inserted has not been looked for yet");
        horizon.looked(&[10], true, true);
        assert_eq!(horizon.gaps(), [(12, 19)]);
    }

    /// T1: the value to close up to was seen before the holders were looked up, not after.
    #[test]
    fn what_was_seen_after_the_holders_were_looked_up_stays_open() {
        let mut horizon = Horizon::new();
        horizon.looked(&[1], true, true);
        let upto = horizon.to_watch().unwrap();
        let nobody = open(&[]);
        // meanwhile one begins and draws 2, another commits 3, which is seen
        horizon.looked(&[3], true, true);
        horizon.watch(upto, &nobody);
        horizon.looked(&[], true, true);
        assert_eq!(horizon.gaps(), [(2, 2)]);
    }

    #[test]
    fn a_transaction_that_is_prepared_is_waited_for_under_its_new_name() {
        let mut horizon = Horizon::new();
        horizon.looked(&[11], true, true);
        horizon.watch(11, &open(&["3/5", "4/1"]));
        horizon.watch(11, &open(&["4/1", "-1/77"]));
        horizon.watch(11, &open(&["-1/77", "-1/78"]));
        horizon.looked(&[], true, true);
        assert!(!horizon.gaps().is_empty(), "-1/77 was 3/5, or -1/78 was 4/1");
        horizon.watch(11, &open(&["-1/99"]));
        horizon.looked(&[], true, true);
        assert_eq!(horizon.gaps(), [], "-1/99 is none of those, and more like it may follow for ever");
    }

    #[test]
    fn a_look_that_was_cut_short_closes_nothing() {
        let mut horizon = Horizon::new();
        horizon.looked(&[100], true, true);
        horizon.watch(100, &open(&[]));
        horizon.looked(&[50], false, false);
        assert_eq!(horizon.gaps(), [(i64::MIN, 49), (51, 99)]);
        horizon.looked(&[], true, false);
        assert_eq!(horizon.gaps(), []);
    }

    #[test]
    fn many_gaps_are_joined_and_none_is_lost() {
        let mut horizon = Horizon::new();
        let seen: Vec<i64> = (0..1000).map(|n| n * 2 + if n > 500 { 100_000 } else { 0 }).collect();
        horizon.looked(&seen, true, true);
        assert!(horizon.gaps().len() <= GAPS_MAX && horizon.is_joined(), "{}", horizon.gaps().len());
        let holds = |value: i64| horizon.gaps().iter().any(|(low, high)| (*low..=*high).contains(&value));
        assert!((0..2000).filter(|v| v % 2 == 1).all(|value| value > 1001 || holds(value)));
        assert!(holds(50_000) && holds(i64::MIN));
        assert!(horizon.gaps().windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
