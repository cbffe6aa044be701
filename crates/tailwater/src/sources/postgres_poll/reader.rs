//! Fetching and handing over. Fetches run beside the loop, one at a time, and end in a buffer: a dropped `next` loses nothing.

use super::flight::Flying;
use super::table::SHARES;
use super::{Core, conclude};
use crate::sources::postgres::copy::parse_line;
use crate::sources::postgres::failure::Error;
use async_trait::async_trait;
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::{Batch, Change, Commit, Event, Failure, Operation, Position, Row, Source, Tuple, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes of rows that one fetch aims at.
const FETCH_BYTES: usize = 1 << 20;
const FETCH_ROWS: usize = 4000;
/// So many rows on their way are named to the server in each look; with more, only now and then.
const NAMED: usize = 1000;
/// A look for late rows takes at most a tenth of the time, and happens at least this often while there is traffic.
const LATE_EVERY: Duration = Duration::from_millis(50);

/// A row that was fetched.
struct Fetched {
    flying: Flying,
    change: Change,
    bytes: usize,
}

struct Look {
    rows: Vec<Fetched>,
    /// There may be more.
    full: bool,
    /// Late rows were looked for, too.
    from_floor: bool,
}

/// The source: one per opening.
pub(super) struct Reader {
    core: Arc<Core>,
    buffer: VecDeque<Fetched>,
    fetching: Option<JoinHandle<Result<Look, Error>>>,
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

    async fn advance(&mut self, room: usize) -> Result<Batch, Error> {
        loop {
            if !self.buffer.is_empty() {
                let batch = self.cut(room);
                if self.buffer.is_empty() && self.more && self.fetching.is_none() {
                    self.start_fetch(); // the next rows come while these travel
                }
                return Ok(batch);
            }
            let mut failed = self.core.failed.subscribe();
            if let Some(fetch) = &mut self.fetching {
                let look = fetch.await.map_err(|_| Error::Ended("the fetch was stopped"))??;
                self.fetching = None;
                self.core.status.source_seen.touch();
                self.next_look = Instant::now() + if look.from_floor { self.core.interval } else { LATE_EVERY };
                let bytes: usize = look.rows.iter().map(|row| row.bytes).sum();
                if !look.rows.is_empty() {
                    self.row_bytes = (self.row_bytes + bytes / look.rows.len()) / 2;
                }
                self.more = look.full;
                self.buffer.extend(look.rows);
                continue;
            }
            if self.more || Instant::now() >= self.next_look {
                self.start_fetch();
                continue;
            }
            tokio::select! {
                () = self.core.session.bell.notified() => self.more = true,
                () = tokio::time::sleep_until(self.next_look) => self.more = true,
                text = async { failed.wait_for(Option::is_some).await.ok().and_then(|text| text.clone()) } => {
                    return Err(Error::Io(std::io::Error::other(text.unwrap_or_default())));
                }
            }
        }
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
        Batch { changes, size_bytes, upto: position(self.core.table.system_id, number) }
    }
}

/// `poll sys=<system identifier> batch=<number>`: the number means something within one opening only.
pub(super) fn position(system_id: u64, batch: u64) -> Position {
    Position::new(format!("poll sys={system_id} batch={batch}"))
}

/// System identifier and batch number.
pub(super) fn parse_position(text: &str) -> Option<(u64, u64)> {
    let (system, batch) = text.strip_prefix("poll sys=")?.split_once(" batch=")?;
    Some((system.parse().ok()?, batch.parse().ok()?))
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, room: usize) -> Result<Batch, Failure> {
        self.advance(room).await.map_err(|error| conclude(&self.core, error))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(fetch) = &self.fetching {
            fetch.abort();
        }
    }
}

/// One look: from the floor, naming what is on its way, or only onwards from the cursor.
async fn fetch(core: Arc<Core>, limit: usize) -> Result<Look, Error> {
    let mut horizon = core.horizon.lock().await;
    let (shares, above, on_their_way) = {
        let flight = core.flight();
        (flight.active(), flight.above(horizon.floor), flight.len())
    };
    if shares.is_empty() {
        return Ok(Look { rows: Vec::new(), full: false, from_floor: true });
    }
    let late_due = core.late.lock().expect("no panic while held").is_none_or(|next| Instant::now() >= next);
    let from_floor = on_their_way <= NAMED || late_due || horizon.cursor == i64::MIN;
    let (low, but) = if from_floor { (horizon.floor, above) } else { (horizon.cursor, Vec::new()) };
    let began = Instant::now();
    let rows = copy(&core, &core.table.fetch_sql(low, &but, &shares, limit)).await?;
    let (seen, full) = (rows.last().map(|row| row.flying.order), rows.len() >= limit);
    if from_floor {
        horizon.looked(seen, !full);
        let pause = LATE_EVERY.max(began.elapsed() * 10);
        *core.late.lock().expect("no panic while held") = Some(Instant::now() + pause);
    } else {
        horizon.went_on(seen);
    }
    if let Err(order) = core.flight().fetched(rows.iter().map(|row| row.flying)) {
        let text = format!("two rows have the same value {order} in the order column: it must be unique");
        return Err(Error::Protocol(text));
    }
    Ok(Look { rows, full, from_floor })
}

async fn copy(core: &Core, sql: &str) -> Result<Vec<Fetched>, Error> {
    let mut lines = std::pin::pin!(core.session.client.copy_out(sql).await?);
    let mut rows = Vec::new();
    while let Some(line) = lines.next().await {
        rows.push(row(core, parse_line(line?))?);
    }
    Ok(rows)
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
        assert_eq!(parse_position(position(77, 3).as_str()), Some((77, 3)));
        for other in ["", "pg sys=1 tl=1 lsn=0/1", "poll sys=x batch=1", "poll sys=1"] {
            assert_eq!(parse_position(other), None);
        }
    }
}
