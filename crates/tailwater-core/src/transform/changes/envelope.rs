//! Schemas and values around a row: the envelope, where the change came from, logical messages.

use super::ChangeSettings;
use crate::change::{Commit, SnapshotMarker};
use crate::encode::connect::{Field, Schema, SchemaKind};
use crate::encode::strict::Datum;
use crate::route::Compatibility;
use std::sync::Arc;

/// Debezium's release whose bytes strict compatibility gives.
const DEBEZIUM: &str = "3.7.0.Final";

fn of(kind: SchemaKind) -> Arc<Schema> {
    Schema::of(kind).shared()
}

fn optional(kind: SchemaKind) -> Arc<Schema> {
    Schema::of(kind).optional().shared()
}

pub(super) fn field(name: &str, schema: Arc<Schema>) -> Field {
    Field { name: name.into(), schema }
}

/// Parts that are the same for all tables.
#[derive(Debug)]
pub(super) struct Parts {
    source: Arc<Schema>,
    transaction: Arc<Schema>,
    source_names: Vec<Arc<[u16]>>,
    envelope_names: Vec<Arc<[u16]>>,
    version: String,
    name: String,
    database: String,
    strict: bool,
}

/// Where a change stands.
pub(super) struct Place<'a> {
    pub commit: &'a Commit,
    pub lsn: u64,
    pub marker: Option<SnapshotMarker>,
    pub schema: &'a str,
    pub table: &'a str,
}

impl Parts {
    pub fn new(settings: &ChangeSettings) -> Parts {
        let strict = settings.compatibility == Compatibility::Strict;
        let own = if strict { DEBEZIUM } else { env!("CARGO_PKG_VERSION") };
        let source = source_schema();
        let names = |names: &[&str]| names.iter().map(|name| Datum::name(name)).collect();
        Parts {
            source_names: source.fields().iter().map(|field| Datum::name(&field.name)).collect(),
            envelope_names: names(&["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]),
            source,
            transaction: transaction_schema(),
            version: settings.version.clone().unwrap_or_else(|| own.into()),
            name: settings.topic_prefix.clone(),
            database: settings.database.clone(),
            strict,
        }
    }

    /// `topic.Envelope` around a table's optional `topic.Value`; of an old row not every column may be known.
    pub fn envelope_schema(&self, topic: &str, before: &Arc<Schema>, after: &Arc<Schema>) -> Arc<Schema> {
        let int64 = optional(SchemaKind::Int64);
        let fields = vec![
            field("before", Arc::clone(before)),
            field("after", Arc::clone(after)),
            field("source", Arc::clone(&self.source)),
            field("transaction", Arc::clone(&self.transaction)),
            field("op", of(SchemaKind::String)),
            field("ts_ms", Arc::clone(&int64)),
            field("ts_us", Arc::clone(&int64)),
            field("ts_ns", int64),
        ];
        Schema::of(SchemaKind::Struct(fields)).named(format!("{topic}.Envelope"), Some(2)).shared()
    }

    /// Times are those of the commit: this crate has no clock, and a replay gives the same bytes.
    pub fn envelope(&self, place: &Place<'_>, op: &str, before: Datum, after: Datum) -> Datum {
        let us = place.commit.time_us;
        let values = [
            before,
            after,
            self.source(place),
            Datum::Null,
            Datum::Text(op.into()),
            Datum::Int(us.div_euclid(1000)),
            Datum::Int(us),
            Datum::Int(us.saturating_mul(1000)),
        ];
        Datum::Struct(self.envelope_names.iter().cloned().zip(values).collect())
    }

    fn source(&self, place: &Place<'_>) -> Datum {
        let commit = place.commit;
        // A snapshot's rows have no record of their own: they stand where the snapshot does.
        let lsn = if place.lsn == 0 { commit.lsn } else { place.lsn };
        let us = commit.time_us;
        let number = |number: u64| Datum::Int(number.min(i64::MAX as u64) as i64);
        let text = |text: &str| Datum::Text(text.into());
        let previous = commit.previous_end_lsn.map_or_else(|| "null".into(), |end| format!("\"{end}\""));
        let values = [
            text(&self.version),
            text("postgresql"),
            text(&self.name),
            Datum::Int(us.div_euclid(1000)),
            match place.marker {
                Some(marker) => text(marker.as_str()),
                // The default of its schema, which a converter may be told not to write.
                None if self.strict => Datum::Null,
                None => text("false"),
            },
            text(&self.database),
            Datum::Text(format!("[{previous},\"{lsn}\"]")),
            Datum::Int(us),
            Datum::Int(us.saturating_mul(1000)),
            text(place.schema),
            text(place.table),
            commit.xid.map_or(Datum::Null, |xid| Datum::Int(i64::from(xid))),
            number(lsn),
            Datum::Null,
            commit.origin.as_ref().map_or(Datum::Null, |origin| text(&origin.name)),
            commit.origin.as_ref().map_or(Datum::Null, |origin| number(origin.lsn)),
        ];
        Datum::Struct(self.source_names.iter().cloned().zip(values).collect())
    }

    /// Schemas of the key and the value of logical messages; the content is bytes, or text by the binary mode.
    pub fn message_schemas(&self, content: SchemaKind) -> (Arc<Schema>, Arc<Schema>) {
        let named = |fields, name: &str, version| {
            Schema::of(SchemaKind::Struct(fields)).named(format!("io.debezium.connector.postgresql.{name}"), version)
        };
        let prefix = field("prefix", optional(SchemaKind::String));
        let block = named(vec![prefix.clone(), field("content", optional(content))], "Message", Some(1));
        let fields = vec![
            field("op", of(SchemaKind::String)),
            field("ts_ms", optional(SchemaKind::Int64)),
            field("source", Arc::clone(&self.source)),
            field("transaction", Arc::clone(&self.transaction)),
            field("message", block.shared()),
        ];
        (named(vec![prefix], "MessageKey", Some(1)).shared(), named(fields, "MessageValue", Some(1)).shared())
    }

    pub fn message(&self, place: &Place<'_>, prefix: &str, content: Datum) -> Datum {
        let member = |name: &str, datum| (Datum::name(name), datum);
        let text = Datum::Text(prefix.into());
        Datum::Struct(vec![
            member("op", Datum::Text("m".into())),
            member("ts_ms", Datum::Int(place.commit.time_us.div_euclid(1000))),
            member("source", self.source(place)),
            member("transaction", Datum::Null),
            member("message", Datum::Struct(vec![member("prefix", text), member("content", content)])),
        ])
    }
}

fn source_schema() -> Arc<Schema> {
    let markers = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental";
    let snapshot = Schema::of(SchemaKind::String)
        .optional()
        .named("io.debezium.data.Enum", Some(1))
        .parameter("allowed", markers)
        .with_default(Some(Datum::Text("false".into())));
    let fields = vec![
        field("version", of(SchemaKind::String)),
        field("connector", of(SchemaKind::String)),
        field("name", of(SchemaKind::String)),
        field("ts_ms", of(SchemaKind::Int64)),
        field("snapshot", snapshot.shared()),
        field("db", of(SchemaKind::String)),
        field("sequence", optional(SchemaKind::String)),
        field("ts_us", optional(SchemaKind::Int64)),
        field("ts_ns", optional(SchemaKind::Int64)),
        field("schema", of(SchemaKind::String)),
        field("table", of(SchemaKind::String)),
        field("txId", optional(SchemaKind::Int64)),
        field("lsn", optional(SchemaKind::Int64)),
        field("xmin", optional(SchemaKind::Int64)),
        field("origin", optional(SchemaKind::String)),
        field("origin_lsn", optional(SchemaKind::Int64)),
    ];
    Schema::of(SchemaKind::Struct(fields)).named("io.debezium.connector.postgresql.Source", Some(1)).shared()
}

fn transaction_schema() -> Arc<Schema> {
    let fields = vec![
        field("id", of(SchemaKind::String)),
        field("total_order", of(SchemaKind::Int64)),
        field("data_collection_order", of(SchemaKind::Int64)),
    ];
    Schema::of(SchemaKind::Struct(fields)).optional().named("event.block", Some(1)).shared()
}
