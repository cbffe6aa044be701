//! Rows that were there before the first start, then the hand-off to the stream.
//!
//! ```text
//!   BEGIN READ ONLY REPEATABLE READ ─▶ temporary slot, USE_SNAPSHOT ─▶ COPY … TO STDOUT ─▶ COMMIT
//!     ─▶ all rows settled and saved ─▶ pg_copy_logical_replication_slot(temporary, name, false) ─▶ START_REPLICATION
//! ```
//!
//! The permanent slot exists only after every row is settled: its existence is the proof that the snapshot was completed.
//! A crash before that begins the snapshot anew, which costs duplicates and nothing else.

use super::catalog;
use super::client::{Client, Incoming, server_error};
use super::connect::session;
use super::failure::Error;
use super::open::{Opening, quoted, start};
use super::position::{PgPosition, Place};
use super::slot;
use super::stream::Stream;
use crate::metrics::State;
use bytes::Bytes;
use postgres_protocol::escape::escape_literal;
use postgres_protocol::message::backend::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tailwater_core::{Batch, Change, Commit, Event, Operation, Relation, Row, Tuple, Value};
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
        let Ok((client, _)) = session(&opening.target).await else { continue };
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
    rows: u64,
}

/// Takes the snapshot and starts reading its first table.
pub(super) async fn begin(mut client: Client, opening: Opening) -> Result<Rows, Error> {
    let consistent = create_slot(&mut client, &opening, true).await?;
    let answer = client.query("SELECT (extract(epoch FROM now()) * 1000000)::int8").await?;
    let time_us = answer.first().and_then(|row| row.text(0)?.parse().ok()).unwrap_or(0);
    let commit = Commit {
        system_id: opening.system.id,
        lsn: consistent,
        end_lsn: consistent,
        time_us,
        xid: None,
        snapshot: true,
    };
    let tables = tables(&mut client, &opening).await?;
    tracing::info!(at = %Lsn(consistent), tables = tables.len(), "snapshot: rows from before the first start");
    opening.link.status.set_state(State::Snapshot { rows: 0 });
    Ok(Rows { client, opening, consistent, commit: Arc::new(commit), tables, relation: None, rows: 0 })
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
            let mut changes = Vec::new();
            let mut size_bytes = 0;
            while let Some(length) = self.client.buffered()? {
                if !changes.is_empty() && (size_bytes + length + held > limit || changes.len() >= BATCH_CHANGES) {
                    break;
                }
                match self.client.message().await? {
                    Incoming::Known(Message::CopyData(body)) => {
                        changes.push(self.change(&relation, body.into_bytes())?);
                        size_bytes += length + held;
                    }
                    Incoming::Known(Message::ReadyForQuery(_)) => self.relation = None,
                    Incoming::Known(Message::ErrorResponse(body)) => return Err(server_error(body.fields())),
                    _ => {}
                }
            }
            if !changes.is_empty() {
                self.opening.link.status.set_state(State::Snapshot { rows: self.rows });
                return Ok(Some(Batch { changes, size_bytes, upto: self.position() }));
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

    fn change(&mut self, relation: &Arc<Relation>, line: Bytes) -> Result<Change, Error> {
        let tuple = parse_line(line);
        if tuple.0.len() != relation.columns.len() {
            return Err(Error::Protocol("a row of the snapshot has another number of columns than its table".into()));
        }
        let ordinal = self.rows;
        self.rows += 1;
        let row = Row { operation: Operation::Snapshot, relation: relation.clone(), old: None, new: Some(tuple) };
        Ok(Change { commit: self.commit.clone(), ordinal, lsn: 0, event: Event::Row(row) })
    }

    /// Starts the next table; after the last one waits until all rows are settled and starts the stream.
    pub async fn proceed(mut self: Box<Self>) -> Result<After, Error> {
        if let Some(table) = self.tables.pop_front() {
            self.client.send_query(&table.copy).await?;
            self.relation = Some(table.relation);
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

/// The published tables that are ours, with their columns as the stream will describe them.
async fn tables(client: &mut Client, opening: &Opening) -> Result<VecDeque<Table>, Error> {
    let (schema, table) = slot::split_table(&opening.config.table);
    let lists = client.major_version() >= 15;
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, {} FROM pg_catalog.pg_publication_tables t \
         JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid \
         LEFT JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent \
         LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace \
         WHERE t.pubname = {} AND ({} OR (n.nspname, c.relname) = ({schema}, {table}) \
         OR (pn.nspname, pc.relname) = ({schema}, {table})) ORDER BY 2, 3",
        if lists { "t.rowfilter, array_to_string(t.attnames, E'\\n')" } else { "NULL, NULL" },
        escape_literal(&opening.config.publication),
        opening.config.table.is_empty(),
        schema = escape_literal(schema),
        table = escape_literal(table),
    );
    let mut tables = VecDeque::new();
    for row in client.query(&sql).await? {
        let (Some(oid), Some(schema), Some(name)) =
            (row.text(0).and_then(|oid| oid.parse().ok()), row.text(1), row.text(2))
        else {
            return Err(Error::Protocol("no sense in the answer to pg_publication_tables".into()));
        };
        let published: Option<Vec<&str>> = row.text(4).map(|names| names.split('\n').collect());
        let described = catalog::describe(client, oid, schema, name, published.as_deref()).await?;
        let copy = copy_sql(&described, row.text(3));
        let relation = if opening.config.catalog {
            catalog::complete(&opening.target, Arc::new(described.relation)).await?
        } else {
            Arc::new(described.relation)
        };
        tables.push_back(Table { relation, copy });
    }
    Ok(tables)
}

/// Rows of one key should come in the order they were written, as far as the table can tell: by a numeric primary key, else by
/// its one column of time. Commit order is nowhere in a table.
fn copy_sql(table: &catalog::Described, filter: Option<&str>) -> String {
    let columns: Vec<String> = table.relation.columns.iter().map(|column| quoted(&column.name)).collect();
    let mut sql = format!(
        "COPY (SELECT {} FROM {}.{}",
        columns.join(", "),
        quoted(&table.relation.schema),
        quoted(&table.relation.name)
    );
    if let Some(filter) = filter {
        sql.push_str(&format!(" WHERE {filter}"));
    }
    if let Some(column) = &table.order_by {
        sql.push_str(&format!(" ORDER BY {}", quoted(column)));
    }
    sql.push_str(") TO STDOUT");
    sql
}

/// One line of COPY's text format (documentation of COPY, "Text Format"). Values without an escape stay slices.
fn parse_line(line: Bytes) -> Tuple {
    let end = if line.last() == Some(&b'\n') { line.len() - 1 } else { line.len() };
    let line = line.slice(..end);
    let mut values = Vec::new();
    let mut from = 0;
    loop {
        let to = memchr::memchr(b'\t', &line[from..]).map_or(line.len(), |tab| from + tab);
        let field = line.slice(from..to);
        values.push(match memchr::memchr(b'\\', &field) {
            None => Value::Text(field),
            Some(_) if field.as_ref() == b"\\N" => Value::Null,
            Some(_) => Value::Text(unescape(&field)),
        });
        if to == line.len() {
            return Tuple(values);
        }
        from = to + 1;
    }
}

fn unescape(field: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => *other,
            None => b'\\',
        });
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_copy_is_read_as_the_stream_would_send_it() {
        let line = Bytes::from_static(b"1\t\\N\t\t\\\\x00ff\ta\\tb\\nc\\rd\\\\e\t\\\\N\n");
        let text = |text: &'static [u8]| Value::Text(Bytes::from_static(text));
        let expected = [text(b"1"), Value::Null, text(b""), text(b"\\x00ff"), text(b"a\tb\nc\rd\\e"), text(b"\\N")];
        assert_eq!(parse_line(line).0, expected);
        assert_eq!(parse_line(Bytes::from_static(b"\n")).0, [text(b"")]);
    }
}
