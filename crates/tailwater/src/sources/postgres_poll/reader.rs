//! Fetching and handing over. Fetches run beside the loop, one at a time, and end in a buffer: a dropped `next` loses nothing.

use super::flight::Flying;
use super::horizon::holders;
use super::table::SHARES;
use super::{Core, Over, table};
use crate::sources::postgres::copy::parse_line;
use crate::sources::postgres::failure::Error;
use async_trait::async_trait;
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use tailwater_core::{Batch, Change, Commit, Event, Failure, Operation, Position, Row, Source, Tuple, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes of rows that one fetch aims at; rows beyond twice that are dropped and fetched again.
const FETCH_BYTES: usize = 1 << 20;
const FETCH_ROWS: usize = 4000;
/// With more rows on their way than this, looking at everything again has to wait.
const AFRESH_ROWS: usize = 1000;

/// A row that was fetched.
struct Fetched {
    flying: Flying,
    change: Change,
    bytes: usize,
}

struct Rows {
    rows: Vec<Fetched>,
    /// There may be more.
    more: bool,
}

/// The source: one per opening.
pub(super) struct Reader {
    core: Arc<Core>,
    buffer: VecDeque<Fetched>,
    fetching: Option<JoinHandle<Result<Rows, Error>>>,
    more: bool,
    next_look: Instant,
    row_bytes: usize,
}

impl Reader {
    pub fn new(core: Arc<Core>) -> Reader {
        Reader { core, buffer: VecDeque::new(), fetching: None, more: true, next_look: Instant::now(), row_bytes: 1024 }
    }

    fn start_fetch(&mut self) {
        let limit = (FETCH_BYTES / self.row_bytes.max(1)).clamp(1, FETCH_ROWS);
        self.more = false;
        self.fetching = Some(tokio::spawn(fetch(self.core.clone(), limit)));
    }

    async fn advance(&mut self, room: usize) -> Result<Batch, Over> {
        let mut over = self.core.over.subscribe();
        loop {
            if let Some(over) = over.borrow_and_update().clone() {
                return Err(over);
            }
            if !self.buffer.is_empty() {
                // T7: a process that slept may have lost its rows to another relay
                self.core.prove().await.map_err(|error| self.core.why(error))?;
                let batch = self.cut(room);
                if self.more && self.fetching.is_none() {
                    self.start_fetch(); // the next rows come while these travel
                }
                return Ok(batch);
            }
            if self.more && self.fetching.is_none() {
                self.start_fetch();
            }
            let idle = self.fetching.is_none();
            tokio::select! {
                _ = over.changed() => {}
                found = async { self.fetching.as_mut().expect("guarded").await }, if !idle => {
                    self.fetching = None;
                    let found = found.unwrap_or(Err(Error::Ended("the fetch was stopped")));
                    self.arrived(found.map_err(|error| self.core.why(error))?);
                }
                () = self.core.session.bell.notified(), if idle => self.more = true,
                () = tokio::time::sleep_until(self.next_look), if idle => self.more = true,
            }
        }
    }

    fn arrived(&mut self, found: Rows) {
        self.core.status.source_seen.touch();
        self.next_look = Instant::now() + self.core.interval;
        if !found.rows.is_empty() {
            let bytes: usize = found.rows.iter().map(|row| row.bytes).sum();
            self.row_bytes = (self.row_bytes + bytes / found.rows.len()) / 2;
        }
        self.more = found.more;
        self.buffer.extend(found.rows);
    }

    /// As many rows as there is room for, at least one.
    fn cut(&mut self, room: usize) -> Batch {
        let (mut changes, mut flying, mut size_bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(row) = self.buffer.front() {
            if !changes.is_empty() && size_bytes + row.bytes > room {
                break;
            }
            let row = self.buffer.pop_front().expect("looked at just now");
            size_bytes += row.bytes;
            flying.push(row.flying);
            changes.push(row.change);
        }
        let number = self.core.flight().hand_over(flying);
        Batch { changes, size_bytes, upto: self.core.position(number) }
    }
}

/// `poll sys=<system identifier> of=<opening> batch=<number>`: the number means something within one opening only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PollPosition {
    pub system_id: u64,
    pub opening: u64,
    pub batch: u64,
}

impl PollPosition {
    pub fn to_position(self) -> Position {
        Position::new(format!("poll sys={} of={:016X} batch={}", self.system_id, self.opening, self.batch))
    }

    pub fn parse(position: &Position) -> Option<PollPosition> {
        let (system, rest) = position.as_str().strip_prefix("poll sys=")?.split_once(" of=")?;
        let (opening, batch) = rest.split_once(" batch=")?;
        let opening = u64::from_str_radix(opening, 16).ok()?;
        Some(PollPosition { system_id: system.parse().ok()?, opening, batch: batch.parse().ok()? })
    }
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, room: usize) -> Result<Batch, Failure> {
        self.advance(room).await.map_err(|over| {
            self.core.status.source_seen.clear();
            over.into()
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(fetch) = &self.fetching {
            fetch.abort();
        }
    }
}

/// One look: into the gaps, and behind the cursor.
async fn fetch(core: Arc<Core>, limit: usize) -> Result<Rows, Error> {
    let mut horizon = core.horizon.lock().await;
    let (shares, on_their_way) = {
        let flight = core.flight();
        (flight.active(), flight.len())
    };
    if shares.is_empty() {
        return Ok(Rows { rows: Vec::new(), more: false });
    }
    if core.table.is_lean && on_their_way <= AFRESH_ROWS && horizon.is_stale(core.afresh) {
        horizon.forget();
    }
    let (cursor, gaps) = (horizon.cursor(), horizon.gaps());
    // rows on their way are found again in gaps that were joined, and shall not crowd out others
    let known = if horizon.is_joined() { core.flight().within(gaps) } else { 0 };
    let gaps_limit = limit + known;
    let look = table::Look { cursor, gaps, shares: &shares, limit, gaps_limit };
    let began = Instant::now();
    let Looked { mut seen, mut rows, cut } = copy(&core, &core.table.fetch_sql(&look)).await?;
    core.proven(began);
    let late = seen.partition_point(|order| *order <= cursor);
    let gaps_cut = late >= gaps_limit || (cut && late == seen.len());
    if gaps_cut {
        // what is left in the gaps comes first
        seen.truncate(late);
        rows.retain(|row| row.flying.order <= cursor);
    }
    let more = cut || gaps_cut || seen.len() - late >= limit;
    if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
        let text = format!("two rows have the same value {} in the order column: it must be unique", twice[0]);
        return Err(Error::Protocol(text));
    }
    horizon.looked(&seen, !gaps_cut, !more);
    if cursor == i64::MIN
        && let (Some(sequence), Some(upto)) = (core.table.sequence, horizon.to_watch())
    {
        // what lies before the first row is best closed at once: dead rows are there
        horizon.watch(upto, &holders(&core.session.client, sequence).await?);
    }
    let mut flight = core.flight();
    rows.retain(|row| flight.fetched(row.flying));
    drop(flight);
    Ok(Rows { rows, more })
}

/// What one look brought.
struct Looked {
    /// Order values, those of rows on their way included.
    seen: Vec<i64>,
    /// Rows that are new.
    rows: Vec<Fetched>,
    /// Rows were dropped since they were too many bytes. Those on their way do not count, or many of them would leave no
    /// room for others, look after look.
    cut: bool,
}

async fn copy(core: &Core, sql: &str) -> Result<Looked, Error> {
    let mut lines = std::pin::pin!(core.session.client.copy_out(sql).await?);
    let (mut looked, mut bytes) = (Looked { seen: Vec::new(), rows: Vec::new(), cut: false }, 0);
    while let Some(line) = lines.next().await {
        let line = line?;
        looked.cut |= bytes > 2 * FETCH_BYTES;
        if !looked.cut {
            let row = row(core, parse_line(line))?;
            looked.seen.push(row.flying.order);
            if !core.flight().holds(row.flying.order) {
                bytes += row.bytes;
                looked.rows.push(row);
            }
        }
    }
    Ok(looked)
}

/// Order value, share, time, then the columns.
fn row(core: &Core, tuple: Tuple) -> Result<Fetched, Error> {
    let odd = || Error::Protocol("a row has another shape than its table".into());
    let mut values = tuple.0;
    if values.len() != core.table.relation.columns.len() + 3 {
        return Err(odd());
    }
    let number = |value: &Value| match value {
        Value::Text(text) => std::str::from_utf8(text).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let order = number(&values[0]).ok_or_else(odd)?;
    let share = number(&values[1]).and_then(|share| usize::try_from(share).ok()).filter(|share| *share < SHARES);
    let share = share.ok_or_else(odd)?;
    // a row without a time of its own: nothing is invented
    let time_us = number(&values[2]).unwrap_or(0);
    values.drain(..3);
    let bytes = size_of::<Change>()
        + size_of::<Commit>()
        + values
            .iter()
            .map(|value| size_of::<Value>() + if let Value::Text(text) = value { text.len() } else { 0 })
            .sum::<usize>();
    let commit =
        Commit { system_id: core.table.system_id, lsn: u64::from(core.table.oid), time_us, ..Commit::default() };
    let row = Row {
        operation: Operation::Insert,
        relation: core.table.relation.clone(),
        old: None,
        new: Some(Tuple(values)),
    };
    let change = Change {
        commit: Arc::new(commit),
        ordinal: order.cast_unsigned(),
        lsn: 0,
        marker: None,
        event: Event::Row(row),
    };
    Ok(Fetched { flying: Flying { order, share }, change, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let position = PollPosition { system_id: 77, opening: u64::MAX - 5, batch: 3 };
        assert_eq!(PollPosition::parse(&position.to_position()), Some(position));
        for other in ["", "pg sys=1 tl=1 lsn=0/1", "poll sys=x of=1 batch=1", "poll sys=1 of=1", "poll sys=1 batch=2"] {
            assert_eq!(PollPosition::parse(&Position::new(other)), None, "{other}");
        }
    }
}
