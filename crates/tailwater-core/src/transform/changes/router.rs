//! Changes → records. Keeps caches only: the same change gives the same records.

use super::envelope::{Parts, Place};
use super::read::binary;
use super::table::Table;
use super::{BinaryMode, ChangeConfigError, ChangeOptions};
use crate::change::OldTuple;
use crate::encode::connect::{ConnectHeader, ConnectRecord, Schema, SchemaKind, Typed};
use crate::encode::strict::Datum;
use crate::route::Compatibility;
use crate::transform::outbox::ContextHeaders;
use crate::transform::outbox::java_regex::JavaRegex;
use crate::transform::outbox::reject::stable_id;
use crate::{Change, Event, LogicalMessage, MessageId, Operation, Relation, ReplicaIdentity, Row, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// What surrounds the options.
#[derive(Clone, Debug, Default)]
pub struct ChangeSettings {
    pub compatibility: Compatibility,
    /// `topic.prefix`: first part of every topic, `source.name`.
    pub topic_prefix: String,
    /// `source.db`
    pub database: String,
    /// `source.version`. Without: the release whose bytes strict compatibility gives; by default this program's own.
    pub version: Option<String>,
    /// Debezium's four headers on every record of a row; none without.
    pub context_headers: Option<ContextHeaders>,
}

/// What became of a change.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Never empty.
    Records(Vec<ConnectRecord>),
    /// Nothing, by rule: counted under this name.
    Filtered(&'static str),
}

/// Turns changes into change events.
#[derive(Debug)]
pub struct ChangeRouter {
    options: ChangeOptions,
    filters: Filters,
    strict: bool,
    parts: Parts,
    context: Vec<ConnectHeader>,
    message_topic: Arc<str>,
    message_schemas: (Arc<Schema>, Arc<Schema>),
    tables: HashMap<u32, Cached>,
}

/// A table as it was described, and what came of it.
type Cached = (Arc<Relation>, Result<Arc<Table>, String>);

impl ChangeRouter {
    pub fn new(options: &ChangeOptions, settings: &ChangeSettings) -> Result<ChangeRouter, ChangeConfigError> {
        let strict = settings.compatibility == Compatibility::Strict;
        let filters = Filters::new(options, &settings.topic_prefix, strict)?;
        let parts = Parts::new(settings);
        let content = if options.binary == BinaryMode::Bytes { SchemaKind::Bytes } else { SchemaKind::String };
        let context = settings.context_headers.as_ref().map(|context| {
            [
                ("__debezium.context.connectorLogicalName", &settings.topic_prefix),
                ("__debezium.context.taskId", &context.task_id),
                ("__debezium.context.connectorName", &context.connector_name),
                ("__debezium.context.runId", &context.run_id),
            ]
            .map(|(name, text)| ConnectHeader { name: name.into(), value: Typed::text(text) })
            .to_vec()
        });
        Ok(ChangeRouter {
            message_topic: format!("{}{}message", filters.prefix, options.topic_delimiter).into(),
            message_schemas: parts.message_schemas(content),
            options: options.clone(),
            filters,
            strict,
            parts,
            context: context.unwrap_or_default(),
            tables: HashMap::new(),
        })
    }

    /// The records of one change. An error is a reason why it cannot be published as it is.
    pub fn records(&mut self, change: &Change) -> Result<Outcome, String> {
        match &change.event {
            Event::Row(row) => self.row(change, row),
            Event::Truncate { .. } if self.filters.skips('t') => Ok(Outcome::Filtered("truncate")),
            Event::Truncate { relation, .. } => {
                let table = self.table(relation)?;
                let place = place(change, relation);
                let value = self.parts.envelope(&place, "t", Datum::Null, Datum::Null);
                Ok(Outcome::Records(vec![self.record(change, &table, Typed::NONE, Some(value), None)]))
            }
            Event::Message(message) => self.message(change, message),
            Event::Undecodable { reason, .. } => Err(reason.clone()),
        }
    }

    fn row(&mut self, change: &Change, row: &Row) -> Result<Outcome, String> {
        let (letter, skipped) = match row.operation {
            Operation::Insert => ("c", "insert"),
            Operation::Update => ("u", "update"),
            Operation::Delete => ("d", "delete"),
            Operation::Snapshot => ("r", "snapshot"),
        };
        if self.filters.skips(letter.chars().next().unwrap_or_default()) {
            return Ok(Outcome::Filtered(skipped));
        }
        if row.relation.columns.is_empty() {
            return Ok(Outcome::Filtered("a table without columns"));
        }
        let table = self.table(&row.relation)?;
        let has_old = matches!(row.operation, Operation::Update | Operation::Delete);
        if has_old {
            self.knows_old_key(&table, &row.relation)?;
        }
        let place = place(change, &row.relation);
        let old = row.old.as_ref().map(|old| match old {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        });
        let full = match &row.old {
            Some(OldTuple::Full(tuple)) => Some(tuple),
            _ => None,
        };
        let before = old.map(|tuple| table.row(tuple, None)).transpose()?.unwrap_or(Datum::Null);
        let Some(new) = &row.new else {
            let key = old.map_or(Ok(None), |old| table.key(old))?;
            let value = self.parts.envelope(&place, letter, before, Datum::Null);
            return Ok(Outcome::Records(self.deletion(change, &table, typed(key), value, None)));
        };
        let after = table.row(new, full)?;
        let key = typed(table.key(new)?);
        if self.options.skip_unchanged && row.operation == Operation::Update && full.is_some() && before == after {
            return Ok(Outcome::Filtered("an update without change"));
        }
        if row.operation == Operation::Update
            && let Some(old) = old
        {
            let old_key = typed(table.key(old)?);
            if old_key != key {
                let gone = self.parts.envelope(&place, "d", before, Datum::Null);
                let header = ConnectHeader { name: "__debezium.newkey".into(), value: key.clone() };
                let mut records = self.deletion(change, &table, old_key.clone(), gone, Some(&header));
                let value = self.parts.envelope(&place, "c", Datum::Null, after);
                let header = ConnectHeader { name: "__debezium.oldkey".into(), value: old_key };
                records.push(self.record(change, &table, key, Some(value), Some(&header)));
                return Ok(Outcome::Records(numbered(records)));
            }
        }
        let value = self.parts.envelope(&place, letter, before, after);
        Ok(Outcome::Records(vec![self.record(change, &table, key, Some(value), None)]))
    }

    /// A delete and, if so wanted, its tombstone.
    fn deletion(
        &self,
        change: &Change,
        table: &Table,
        key: Typed,
        value: Datum,
        first: Option<&ConnectHeader>,
    ) -> Vec<ConnectRecord> {
        let mut records = vec![self.record(change, table, key.clone(), Some(value), first)];
        if self.options.tombstones_on_delete {
            records.push(self.record(change, table, key, None, first));
        }
        numbered(records)
    }

    /// `value`: `None` is a tombstone.
    fn record(
        &self,
        change: &Change,
        table: &Table,
        key: Typed,
        value: Option<Datum>,
        first: Option<&ConnectHeader>,
    ) -> ConnectRecord {
        ConnectRecord {
            id: stable_id(change),
            event_type: None,
            topic: Arc::clone(&table.topic),
            partition: None,
            key,
            value: value.map_or(Typed::NONE, |value| Typed::new(&table.envelope, value)),
            headers: first.into_iter().chain(&self.context).cloned().collect(),
            timestamp: Timestamp(change.commit.time_us),
        }
    }

    fn message(&self, change: &Change, message: &LogicalMessage) -> Result<Outcome, String> {
        let prefix = std::str::from_utf8(&message.prefix).map_err(|_| "the message's prefix is not UTF-8")?;
        if !self.filters.takes_prefix(prefix)? {
            return Ok(Outcome::Filtered("message prefix"));
        }
        let place = Place { commit: &change.commit, lsn: change.lsn, marker: None, schema: "", table: "" };
        let content = binary(self.options.binary, message.content.to_vec());
        let key = Datum::Struct(vec![(Datum::name("prefix"), Datum::Text(prefix.into()))]);
        Ok(Outcome::Records(vec![ConnectRecord {
            id: stable_id(change),
            event_type: None,
            topic: Arc::clone(&self.message_topic),
            partition: None,
            key: Typed::new(&self.message_schemas.0, key),
            value: Typed::new(&self.message_schemas.1, self.parts.message(&place, prefix, content)),
            headers: Vec::new(),
            timestamp: Timestamp(change.commit.time_us),
        }]))
    }

    /// Whether the rows of this table can be written: what is refused, by name. For checks before the first change.
    pub fn check(&mut self, relation: &Arc<Relation>) -> Result<(), String> {
        let table = self.table(relation)?;
        // without any identity the server itself refuses updates and deletes
        if relation.identity == ReplicaIdentity::Nothing { Ok(()) } else { self.knows_old_key(&table, relation) }
    }

    fn knows_old_key(&self, table: &Table, relation: &Relation) -> Result<(), String> {
        if !table.key_unknown || self.strict {
            return Ok(());
        }
        let (schema, name) = (&relation.schema, &relation.name);
        Err(format!(
            "the key of an old row of {schema}.{name} is not in the log: ALTER TABLE {schema}.{name} REPLICA IDENTITY FULL"
        ))
    }

    /// As `check`, where old rows are never asked for.
    pub(in crate::transform) fn check_new_rows(&mut self, relation: &Arc<Relation>) -> Result<(), String> {
        self.table(relation).map(drop)
    }

    /// What is known of a table; made anew when its description changes.
    fn table(&mut self, relation: &Arc<Relation>) -> Result<Arc<Table>, String> {
        if let Some((known, table)) = self.tables.get(&relation.oid)
            && (Arc::ptr_eq(known, relation) || **known == **relation)
        {
            return table.clone();
        }
        let table = Table::new(relation, &self.options, &self.filters, &self.parts, self.strict).map(Arc::new);
        self.tables.insert(relation.oid, (Arc::clone(relation), table.clone()));
        table
    }
}

fn place<'a>(change: &'a Change, relation: &'a Relation) -> Place<'a> {
    let (schema, table) = (&relation.schema, &relation.name);
    Place { commit: &change.commit, lsn: change.lsn, marker: change.marker, schema, table }
}

fn typed(key: Option<(&Arc<Schema>, Datum)>) -> Typed {
    key.map_or(Typed::NONE, |(schema, datum)| Typed::new(schema, datum))
}

/// Records of one change need ids of their own: the first keeps the change's.
fn numbered(mut records: Vec<ConnectRecord>) -> Vec<ConnectRecord> {
    let Some(first) = records.first().map(|record| record.id.clone()) else { return records };
    for (index, record) in records.iter_mut().enumerate().skip(1) {
        record.id = MessageId(format!("{first}-{index}").into());
    }
    records
}

/// Names and patterns of the options, ready for use.
#[derive(Debug)]
pub(super) struct Filters {
    prefix: String,
    delimiter: String,
    skipped: String,
    columns: Selection,
    prefixes: Selection,
    keys: Vec<(JavaRegex, Vec<String>)>,
    pub strict: bool,
}

#[derive(Debug, Default)]
struct Selection {
    include: Vec<JavaRegex>,
    exclude: Vec<JavaRegex>,
}

impl Selection {
    fn new(option: &'static str, include: Option<&str>, exclude: Option<&str>) -> Result<Selection, ChangeConfigError> {
        if include.is_some() && exclude.is_some() {
            return Err(ChangeConfigError::Both { option });
        }
        Ok(Selection { include: patterns(option, include)?, exclude: patterns(option, exclude)? })
    }

    fn takes(&self, name: &str) -> Result<bool, String> {
        let any = |patterns: &[JavaRegex]| -> Result<bool, String> {
            for pattern in patterns {
                if pattern.matches(name)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok(if self.include.is_empty() { !any(&self.exclude)? } else { any(&self.include)? })
    }
}

/// Regular expressions with commas between them, for whole names, whatever their case.
fn patterns(option: &'static str, list: Option<&str>) -> Result<Vec<JavaRegex>, ChangeConfigError> {
    let items = list.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| pattern(option, item)).collect()
}

fn pattern(option: &'static str, item: &str) -> Result<JavaRegex, ChangeConfigError> {
    JavaRegex::new(&format!("(?i){item}"))
        .map_err(|error| ChangeConfigError::Pattern { option, reason: error.to_string() })
}

impl Filters {
    fn new(options: &ChangeOptions, prefix: &str, strict: bool) -> Result<Filters, ChangeConfigError> {
        let delimiter = options.topic_delimiter.clone();
        if delimiter.is_empty() || !delimiter.chars().all(is_legal) {
            return Err(ChangeConfigError::Delimiter(delimiter));
        }
        let mut skipped = String::new();
        for word in options.skipped_operations.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "c" | "u" | "d" | "t" => skipped.push_str(word),
                "none" => {}
                _ => return Err(ChangeConfigError::Operation(word.into())),
            }
        }
        let columns =
            Selection::new("column_include", options.column_include.as_deref(), options.column_exclude.as_deref())?;
        let prefixes = Selection::new(
            "message_prefix_include",
            options.message_prefix_include.as_deref(),
            options.message_prefix_exclude.as_deref(),
        )?;
        let items = options.message_key_columns.iter().flat_map(|list| list.split(';'));
        let mut keys = Vec::new();
        for item in items.map(str::trim).filter(|item| !item.is_empty()) {
            let (table, columns) =
                item.rsplit_once(':').ok_or_else(|| ChangeConfigError::KeyColumns { item: item.into() })?;
            let columns = columns.split(',').map(|column| column.trim().to_owned()).collect();
            keys.push((pattern("message_key_columns", table)?, columns));
        }
        Ok(Filters { prefix: legal(prefix), delimiter, skipped, columns, prefixes, keys, strict })
    }

    fn skips(&self, letter: char) -> bool {
        self.skipped.contains(letter)
    }

    fn takes_prefix(&self, prefix: &str) -> Result<bool, String> {
        self.prefixes.takes(prefix)
    }

    pub fn writes(&self, schema: &str, table: &str, column: &str) -> Result<bool, String> {
        if self.columns.include.is_empty() && self.columns.exclude.is_empty() {
            return Ok(true);
        }
        self.columns.takes(&format!("{schema}.{table}.{column}"))
    }

    pub fn key_columns(&self, schema: &str, table: &str) -> Result<Option<&[String]>, String> {
        for (pattern, columns) in &self.keys {
            if pattern.matches(&format!("{schema}.{table}"))? {
                return Ok(Some(columns));
            }
        }
        Ok(None)
    }

    pub fn topic(&self, schema: &str, table: &str) -> Arc<str> {
        format!("{}{}{}{}{}", self.prefix, self.delimiter, legal(schema), self.delimiter, legal(table)).into()
    }
}

fn is_legal(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

/// What Kafka does not allow in the name of a topic becomes `_`.
fn legal(name: &str) -> String {
    name.chars().map(|character| if is_legal(character) { character } else { '_' }).collect()
}
