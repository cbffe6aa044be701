//! What happened in a database: the events of a source, before anybody decided what to publish.
//!
//! Not here: how they were read (sources) and what becomes of them (route). Values are the server's own text or bytes,
//! slices of the buffer they arrived in.

use bytes::Bytes;
use std::sync::Arc;

/// One thing that happened, with the transaction it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The transaction; shared by all its changes.
    pub commit: Arc<Commit>,
    /// Place inside the transaction, from 0, counting every row and message of it, also those that are filtered later.
    pub ordinal: u64,
    /// LSN of this change's own WAL record (0 where the source has none, e.g. a snapshot).
    pub lsn: u64,
    /// Where in the snapshot it stands, if it is from there.
    pub marker: Option<SnapshotMarker>,
    pub event: Event,
}

/// The place of a row in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotMarker {
    /// The first row of all.
    First,
    /// The first row of its table.
    FirstInTable,
    Middle,
    /// The last row of its table.
    LastInTable,
    /// The last row of all.
    Last,
}

impl SnapshotMarker {
    /// As Debezium writes it into `source.snapshot`.
    pub fn as_str(self) -> &'static str {
        match self {
            SnapshotMarker::First => "first",
            SnapshotMarker::FirstInTable => "first_in_data_collection",
            SnapshotMarker::Middle => "true",
            SnapshotMarker::LastInTable => "last_in_data_collection",
            SnapshotMarker::Last => "last",
        }
    }
}

/// A committed transaction (or a snapshot, or a lone non-transactional message).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// `system_identifier` of the cluster (`IDENTIFY_SYSTEM`), 0 if unknown.
    pub system_id: u64,
    /// Start of the commit record: `final_lsn` of Begin = `commit_lsn` of Commit. Identifies the transaction.
    pub lsn: u64,
    /// End of the commit record: what may be confirmed once the transaction is settled. 0 until Commit was read.
    pub end_lsn: u64,
    /// `end_lsn` of the commit that came before this one in the same stream; `None` for the first.
    pub previous_end_lsn: Option<u64>,
    /// Commit time, µs since 1970-01-01 UTC (may be negative).
    pub time_us: i64,
    /// Transaction id, if there is one.
    pub xid: Option<u32>,
    /// Rows read by the snapshot before the stream began.
    pub snapshot: bool,
    /// Where the transaction was made, if it was replayed from another server.
    pub origin: Option<Arc<Origin>>,
}

/// A replication origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub name: Arc<str>,
    /// The commit's LSN on the server where it was made.
    pub lsn: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Row(Row),
    /// TRUNCATE of one table (a statement that truncates several yields one event each).
    Truncate {
        relation: Arc<Relation>,
        cascade: bool,
        restart_identity: bool,
    },
    /// `pg_logical_emit_message`.
    Message(LogicalMessage),
    /// The bytes could not be understood (T25): parked with its LSN, never skipped.
    Undecodable {
        reason: String,
        raw: Bytes,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub operation: Operation,
    pub relation: Arc<Relation>,
    /// Old row: `Full` identity gives all columns, `Key` only the key columns (others are `Value::Null`).
    pub old: Option<OldTuple>,
    pub new: Option<Tuple>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OldTuple {
    Key(Tuple),
    Full(Tuple),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    /// A row that was there before the stream began.
    Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    /// False: emitted at once, also when its transaction rolls back later.
    pub transactional: bool,
    pub prefix: Bytes,
    pub content: Bytes,
}

/// Column values in the order of `Relation::columns`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuple(pub Vec<Value>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOAST value that the update did not touch: not in the log, and not NULL (T26).
    Unchanged,
    /// The server's text output, in the database's encoding (UTF-8 is required of it).
    Text(Bytes),
    /// The server's binary output.
    Binary(Bytes),
}

/// A table as the log described it when the change was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    pub oid: u32,
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

impl Relation {
    /// Index of the column with exactly this name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| &*c.name == name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Arc<str>,
    /// `pg_type.oid`; see `pgoutput::oid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`, -1 for none.
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub key: bool,
    /// From the catalog, where the source looked it up (the log does not say): for change events and strict compatibility.
    pub catalog: Option<ColumnCatalog>,
}

/// What only the catalog knows of a column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnCatalog {
    pub not_null: bool,
    /// The default expression as `pg_get_expr` prints it.
    pub default: Option<Arc<str>>,
    /// The type's name as `format_type` prints it, e.g. `character varying(255)`.
    pub type_name: Arc<str>,
    /// Place in the table's primary key, from 1.
    pub primary_key: Option<u32>,
    /// Of a domain: the type at the bottom of it, and its modifier.
    pub base_type: Option<(u32, i32)>,
    /// Of an array: the type of its elements.
    pub element_type: Option<u32>,
    /// Labels of an enum (its own, its domain's, its array's elements'), in their order.
    pub enum_labels: Option<Arc<[Arc<str>]>>,
}
