//! Rows that were there before the first start, then the hand-off to the stream.
//!
//! ```text
//!   BEGIN READ ONLY REPEATABLE READ ─▶ temporary slot, USE_SNAPSHOT ─▶ COPY … TO STDOUT ─▶ COMMIT
//!     ─▶ all rows settled and saved ─▶ pg_copy_logical_replication_slot(temporary, name, false) ─▶ START_REPLICATION
//! ```
//!
//! The permanent slot exists only after every row is settled: its existence is the proof that the snapshot was completed.
//! A crash before that begins the snapshot anew, which costs duplicates and nothing else.

use super::capture;
use super::catalog;
use super::client::{Client, Incoming, server_error};
use super::copy::parse_line;
use super::failure::Error;
use super::marks::{First, InTables, marker};
use super::open::{Opening, quoted, start};
use super::position::{PgPosition, Place};
use super::shared::shared;
use super::slot;
use super::standby;
use super::stream::Stream;
use crate::metrics::State;
use bytes::Bytes;
use postgres_protocol::escape::escape_literal;
use postgres_protocol::message::backend::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tailwater_core::{Batch, Change, Commit, Event, Operation, Relation, Row, Value};
use tokio::time::sleep;

const BATCH_BYTES: usize = 256 << 10;
const BATCH_CHANGES: usize = 1000;
/// The creation of a slot waits for open transactions; it is begun anew after so long, so that one that was given up leaves.
const LOCK_TIMEOUT: &str = "10s";
/// After this time the transactions it waits for are named.
const NAME_AFTER: Duration = Duration::from_secs(2);
/// While rows are being settled the connection is looked at this often.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Creates the slot (or, temporarily, one for the snapshot of the open transaction) and returns where it begins.
pub(super) async fn create_slot(client: &mut Client, opening: &Opening, temporary: bool) -> Result<u64, Error> {
    let name = if temporary { temporary_name(&opening.config.slot, client.pid) } else { opening.config.slot.clone() };
    let (kind, snapshot) = if temporary { ("TEMPORARY ", "USE_SNAPSHOT") } else { ("", "NOEXPORT_SNAPSHOT") };
    let sql = format!("CREATE_REPLICATION_SLOT {} {kind}LOGICAL pgoutput {snapshot}", quoted(&name));
    client.query(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    let rows = loop {
        if temporary {
            // READ ONLY: 16 and later refuse the snapshot without it (observed on 14–18).
            client.query("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
        }
        let pid = client.pid;
        let created = tokio::select! {
            created = client.query(&sql) => created,
            never = name_blockers(opening, pid) => match never {},
        };
        match created {
            Err(error) if error.code() == Some("55P03") => {
                if temporary {
                    client.query("ROLLBACK").await?;
                }
            }
            other => break other?,
        }
    };
    client.query("SET lock_timeout = 0").await?;
    let consistent = rows.first().and_then(|row| row.text(1)?.parse::<Lsn>().ok());
    consistent
        .map(|lsn| lsn.0)
        .ok_or_else(|| Error::Protocol("no sense in the answer to CREATE_REPLICATION_SLOT".into()))
}

/// A name of its own per session; a slot's name has 63 bytes at most.
fn temporary_name(slot: &str, pid: i32) -> String {
    let cut: String = slot.chars().take(40).collect();
    format!("{cut}_snapshot_{pid}")
}

/// Says which transactions the creation of the slot waits for, until it is dropped.
async fn name_blockers(opening: &Opening, walsender: i32) -> std::convert::Infallible {
    loop {
        sleep(NAME_AFTER).await;
        let Ok(client) = shared(&opening.target).await else { continue };
        loop {
            let sql = "SELECT pg_catalog.pg_blocking_pids($1)";
            let Ok(row) = client.query_one(sql, &[&walsender]).await else { break };
            let pids: Vec<i32> = row.get(0);
            opening.link.status.source_seen.touch();
            if !pids.is_empty() {
                tracing::warn!(
                    ?pids,
                    "the new slot waits for open transactions (0: a prepared one, see pg_prepared_xacts)"
                );
                opening.link.status.set_state(State::WaitingForTransactions { pids });
            }
            sleep(NAME_AFTER).await;
        }
    }
}

/// A table that is still to be read.
struct Table {
    relation: Arc<Relation>,
    copy: String,
}

/// The snapshot while its rows are being read.
pub(super) struct Rows {
    client: Client,
    opening: Opening,
    consistent: u64,
    commit: Arc<Commit>,
    tables: VecDeque<Table>,
    /// What the rows on the way belong to.
    relation: Option<Arc<Relation>>,
    place: InTables,
    /// The row that was read last: kept back until it is known whether another one follows.
    kept: Option<Kept>,
    /// Rows handed over.
    rows: u64,
}

struct Kept {
    row: Row,
    size_bytes: usize,
    first: First,
    last_of_table: bool,
}

/// Takes the snapshot and starts reading its first table.
pub(super) async fn begin(mut client: Client, opening: Opening) -> Result<Rows, Error> {
    // Rows that a policy hides would be missing without a word: an error instead.
    client.query("SET row_security = off").await?;
    let consistent = create_slot(&mut client, &opening, true).await?;
    let answer = client
        .query("SELECT (extract(epoch FROM now()) * 1000000)::int8, pg_snapshot_xmax(pg_current_snapshot())::text::int8 % 4294967296")
        .await?;
    let number = |index| answer.first().and_then(|row| row.text(index)?.parse::<i64>().ok());
    let commit = Commit {
        system_id: opening.system.id,
        lsn: consistent,
        end_lsn: consistent,
        previous_end_lsn: None,
        time_us: number(0).unwrap_or(0),
        // The first transaction that the snapshot does not see.
        xid: number(1).and_then(|xid| u32::try_from(xid).ok()),
        snapshot: true,
        origin: None,
    };
    let tables = tables(&mut client, &opening).await?;
    tracing::info!(at = %Lsn(consistent), tables = tables.len(), "snapshot: rows from before the first start");
    opening.link.status.set_state(State::Snapshot { rows: 0 });
    let commit = Arc::new(commit);
    let place = InTables::default();
    Ok(Rows { client, opening, consistent, commit, tables, relation: None, place, kept: None, rows: 0 })
}

/// What comes after a table: the next one, or the stream.
pub(super) enum After {
    Rows(Box<Rows>),
    Stream(Box<Stream>),
}

impl Rows {
    /// The next rows; `None`: go on with [`Rows::proceed`]. Cancel-safe: it waits only for bytes, with nothing in hand.
    pub async fn next(&mut self, room: usize) -> Result<Option<Batch>, Error> {
        let Some(relation) = self.relation.clone() else { return Ok(None) };
        let limit = room.min(BATCH_BYTES);
        let held = size_of::<Change>() + relation.columns.len() * size_of::<Value>();
        loop {
            let mut batch = Vec::new();
            let mut size_bytes = 0;
            while let Some(length) = self.client.buffered()? {
                // The row that is handed over by this one is the one kept before it.
                let next = self.kept.as_ref().map_or(0, |kept| kept.size_bytes);
                if !batch.is_empty() && (size_bytes + next > limit || batch.len() >= BATCH_CHANGES) {
                    break;
                }
                match self.client.message().await? {
                    Incoming::Known(Message::CopyData(body)) => {
                        let kept = self.row(&relation, body.into_bytes(), length + held)?;
                        let before = self.kept.replace(kept);
                        size_bytes += self.hand_over(before, false, &mut batch);
                    }
                    Incoming::Known(Message::ReadyForQuery(_)) => {
                        self.relation = None;
                        size_bytes += self.end_of_table(&mut batch);
                    }
                    Incoming::Known(Message::ErrorResponse(body)) => return Err(server_error(body.fields())),
                    _ => {}
                }
            }
            if !batch.is_empty() {
                self.opening.link.status.set_state(State::Snapshot { rows: self.rows });
                return Ok(Some(Batch { changes: batch, size_bytes, upto: self.position() }));
            }
            if self.relation.is_none() {
                return Ok(None);
            }
            self.client.read_more().await?;
            self.opening.link.status.source_seen.touch();
        }
    }

    fn position(&self) -> tailwater_core::Position {
        let place = Place::Snapshot { consistent: self.consistent, rows: self.rows };
        let system = &self.opening.system;
        PgPosition { system_id: system.id, timeline: system.timeline, place }.to_position()
    }

    fn row(&mut self, relation: &Arc<Relation>, line: Bytes, size_bytes: usize) -> Result<Kept, Error> {
        let tuple = parse_line(line);
        if tuple.0.len() != relation.columns.len() {
            return Err(Error::Protocol("a row of the snapshot has another number of columns than its table".into()));
        }
        let row = Row { operation: Operation::Snapshot, relation: relation.clone(), old: None, new: Some(tuple) };
        Ok(Kept { row, size_bytes, first: self.place.row(), last_of_table: false })
    }

    /// The kept row is the last of its table; after the last table, it is the last of all.
    fn end_of_table(&mut self, batch: &mut Vec<Change>) -> usize {
        if let Some(kept) = &mut self.kept {
            kept.last_of_table = true;
        }
        if !self.tables.is_empty() {
            return 0;
        }
        let kept = self.kept.take();
        self.hand_over(kept, true, batch)
    }

    /// Gives a row to the batch, with what is known of it by now; returns its bytes.
    fn hand_over(&mut self, kept: Option<Kept>, last: bool, batch: &mut Vec<Change>) -> usize {
        let Some(Kept { row, size_bytes, first, last_of_table }) = kept else { return 0 };
        let ordinal = self.rows;
        self.rows += 1;
        let marker = Some(marker(first, last_of_table, last));
        batch.push(Change { commit: self.commit.clone(), ordinal, lsn: 0, marker, event: Event::Row(row) });
        size_bytes
    }

    /// Starts the next table; after the last one waits until all rows are settled and starts the stream.
    pub async fn proceed(mut self: Box<Self>) -> Result<After, Error> {
        if let Some(table) = self.tables.pop_front() {
            self.client.send_query(&table.copy).await?;
            self.relation = Some(table.relation);
            self.place.table();
            return Ok(After::Rows(self));
        }
        let Rows { mut client, opening, consistent, rows, .. } = *self;
        // The snapshot has done its work; the temporary slot keeps the WAL, and nothing keeps old rows from vacuum.
        client.query("COMMIT").await?;
        settled(&mut client, &opening, rows).await?;
        let sql = format!(
            "SELECT pg_catalog.pg_copy_logical_replication_slot({}, {}, false)",
            escape_literal(&temporary_name(&opening.config.slot, client.pid)),
            escape_literal(&opening.config.slot)
        );
        client.query(&sql).await?;
        standby::release_snapshot(&mut client).await?;
        tracing::info!(slot = %opening.config.slot, rows, "snapshot complete; slot created");
        let stream = start(client, &opening, None, Some(consistent)).await?;
        Ok(After::Stream(Box::new(stream)))
    }
}

/// Waits until `rows` rows are settled and saved; meanwhile makes sure that the connection, and with it the temporary slot,
/// is still there. There is no time limit: an event that is held (state `held`) may take an operator's hand.
async fn settled(client: &mut Client, opening: &Opening, rows: u64) -> Result<(), Error> {
    let mut watch = opening.link.snapshot_rows.subscribe();
    loop {
        tokio::select! {
            // The sender lives in `opening`.
            _ = async { drop(watch.wait_for(|settled| *settled >= rows).await) } => return Ok(()),
            _ = sleep(ALIVE_EVERY) => {
                client.query("SELECT 1").await?;
                opening.link.status.source_seen.touch();
            }
        }
    }
}

/// The tables to read, with their columns as the stream will describe them.
async fn tables(client: &mut Client, opening: &Opening) -> Result<VecDeque<Table>, Error> {
    let Opening { config, filter, .. } = opening;
    let (outbox, lists) = (!config.table.is_empty(), client.major_version() >= 15);
    let sql = if outbox {
        let (schema, table) = slot::split_table(&config.table);
        capture::outbox_sql(&config.publication, lists, schema, table)
    } else {
        capture::published_sql(&config.publication, lists)
    };
    let rows = client.query(&sql).await?;
    let found: Vec<capture::Table> =
        rows.iter().map(|row| capture::table(|index| row.text(index))).collect::<Result<_, _>>()?;
    let mut tables = VecDeque::new();
    for table in found.into_iter().filter(|table| outbox || filter.takes(&table.schema, &table.name)) {
        let described = catalog::describe(client, &table, config.wants_catalog()).await?;
        let copy = copy_sql(&described, &table, outbox);
        let relation = Arc::new(described.relation);
        tables.push_back(Table { relation, copy });
    }
    Ok(tables)
}

/// The rows of an outbox should come in the order they were written, as far as the table can tell: by a numeric primary key,
/// else by its one column of time, else by the transactions' numbers. Commit order is nowhere in a table. Change events of a snapshot are one for each key.
///
/// `ONLY`: tables that inherit from this one send their rows under their own names; a partitioned table has none itself.
fn copy_sql(described: &catalog::Described, table: &capture::Table, ordered: bool) -> String {
    let columns: Vec<String> = described.relation.columns.iter().map(|column| quoted(&column.name)).collect();
    let only = if table.kind == 'p' { "" } else { "ONLY " };
    let mut sql =
        format!("COPY (SELECT {} FROM {only}{}.{}", columns.join(", "), quoted(&table.schema), quoted(&table.name));
    if let Some(filter) = &table.row_filter {
        sql.push_str(&format!(" WHERE {filter}"));
    }
    if let Some(order) = described.order_by.as_ref().filter(|_| ordered) {
        sql.push_str(&format!(" ORDER BY {order}"));
    }
    sql.push_str(") TO STDOUT");
    sql
}
