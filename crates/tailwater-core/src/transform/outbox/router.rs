//! The outbox event router: one inserted row → one message.
//!
//! Not here: reading the log, logical messages as events, plain change events, tracing.
//!
//! ```text
//!   change ─▶ row? ─▶ captured table? ─▶ insert? ─▶ columns ─▶ message
//!              │            │               │          │
//!          undecodable:  not ours:       delete:    missing or unfit:
//!          rejected      filtered        filtered   rejected
//! ```

use super::columns::{Columns, Slot};
use super::java_regex::JavaRegex;
use super::names::rename_members;
use super::placement::{self, Place, Placement};
use super::reject::{rejected, stable_id};
use super::strict::{ContextHeaders, changes_key};
use super::topic::TopicNames;
use super::{FieldNameAdjustment, OnUpdate, OutboxOptions, RouteConfigError};
use crate::encode::json::{Escapes, is_value, write_string};
use crate::encode::kind::Kind;
use crate::encode::{plain, time};
use crate::pgoutput::Lsn;
use crate::route::{Compatibility, Format, Route, Routed};
use crate::{
    Change, Commit, Event, HeaderValue, Headers, Message, MessageId, Operation, Relation, Row, Timestamp, Value,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// What the router needs besides [`OutboxOptions`].
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    pub compatibility: Compatibility,
    pub key_format: Format,
    pub value_format: Format,
    pub header_format: Format,
    /// First part of the topics that `only_topics` looks at.
    pub topic_prefix: String,
    /// Java regular expression over `prefix.schema.table` (predicate `TopicNameMatches`): only these tables are outboxes.
    pub only_topics: Option<String>,
    /// Turns `only_topics` around.
    pub negate: bool,
    /// Strict compatibility only: Debezium's headers about itself. `None`: `extended.headers.enabled=false`.
    pub context_headers: Option<ContextHeaders>,
}

impl Default for RouteSettings {
    fn default() -> Self {
        RouteSettings {
            compatibility: Compatibility::Default,
            key_format: Format::String,
            value_format: Format::Json,
            header_format: Format::Plain,
            topic_prefix: "tailwater".into(),
            only_topics: None,
            negate: false,
            context_headers: Some(ContextHeaders::default()),
        }
    }
}

/// Routes the rows of outbox tables. See [`OutboxRouter::new`].
#[derive(Debug)]
pub struct OutboxRouter {
    options: OutboxOptions,
    settings: RouteSettings,
    placements: Vec<Placement>,
    only_topics: Option<JavaRegex>,
    topics: TopicNames,
    event_types: HashMap<Bytes, Arc<str>>,
    tables: HashMap<u32, Arc<Table>>,
    /// The table of the row before: mostly the next one's too.
    last: Option<Arc<Table>>,
    id_header: Arc<str>,
    lsn_header: Option<Arc<str>>,
    notices: Vec<String>,
}

/// What is known of one relation; found anew when the log describes it anew.
#[derive(Debug)]
struct Table {
    relation: Arc<Relation>,
    captured: bool,
    columns: Arc<Result<Columns, String>>,
}

/// So many event types are remembered; then all are forgotten and it starts anew.
const REMEMBERED: usize = 4096;

impl OutboxRouter {
    /// Checks all that can be checked without a row.
    pub fn new(options: &OutboxOptions, settings: RouteSettings) -> Result<OutboxRouter, RouteConfigError> {
        let placements = options.placement.as_deref().map(placement::parse).transpose()?.unwrap_or_default();
        check_formats(&settings)?;
        check_options(options, settings.compatibility == Compatibility::Strict, settings.value_format, &placements)?;
        Ok(OutboxRouter {
            topics: TopicNames::new(&options.topic_regex, &options.topic_replacement)?,
            only_topics: settings.only_topics.as_deref().map(JavaRegex::new).transpose()?,
            options: options.clone(),
            settings,
            placements,
            event_types: HashMap::new(),
            tables: HashMap::new(),
            last: None,
            id_header: "id".into(),
            lsn_header: options.lsn_header.as_deref().map(Arc::from),
            notices: Vec::new(),
        })
    }

    fn strict(&self) -> bool {
        self.settings.compatibility == Compatibility::Strict
    }

    fn table(&mut self, relation: &Arc<Relation>) -> Arc<Table> {
        if let Some(last) = &self.last
            && Arc::ptr_eq(&last.relation, relation)
        {
            return Arc::clone(last);
        }
        let table = match self.tables.get(&relation.oid) {
            // The same description in a new stream: from now on this one is recognized by its address.
            Some(known) if known.relation == *relation => Arc::new(Table {
                relation: Arc::clone(relation),
                captured: known.captured,
                columns: Arc::clone(&known.columns),
            }),
            _ => Arc::new(self.describe(relation)),
        };
        self.tables.insert(relation.oid, Arc::clone(&table));
        self.last = Some(Arc::clone(&table));
        table
    }

    fn row(&mut self, change: &Change, row: &Row) -> Routed {
        let table = self.table(&row.relation);
        if !table.captured {
            return Routed::Filtered("not_captured");
        }
        match row.operation {
            Operation::Insert | Operation::Snapshot => {}
            Operation::Update if self.strict() && changes_key(row) => {}
            Operation::Delete => return Routed::Filtered("delete"),
            Operation::Update => match self.options.on_update {
                OnUpdate::Warn => return Routed::Filtered("update"),
                OnUpdate::Error => return Routed::Filtered("update_as_error"),
                OnUpdate::Fatal => {
                    return rejected(
                        change,
                        (*table.columns).as_ref().ok(),
                        "an outbox row was updated, and on_update = \"fatal\" forbids it".into(),
                    );
                }
            },
        }
        let columns = match &*table.columns {
            Ok(columns) => columns,
            Err(reason) => return rejected(change, None, reason.clone()),
        };
        let message =
            if self.strict() { self.strict_message(change, row, columns) } else { self.message(change, row, columns) };
        match message {
            Ok(message) => Routed::Message(message),
            Err(reason) => rejected(change, Some(columns), reason),
        }
    }

    fn describe(&mut self, relation: &Arc<Relation>) -> Table {
        let captured = self.only_topics.as_ref().is_none_or(|pattern| {
            let topic = format!("{}.{}.{}", self.settings.topic_prefix, relation.schema, relation.name);
            // A pattern that runs over its limit decides nothing: route the row rather than drop it.
            pattern.matches(&topic) != Ok(self.settings.negate)
        });
        let columns = Columns::find(&self.options, &self.placements, relation, !self.strict());
        if captured && columns.as_ref().is_ok_and(|c| c.id_is_key) {
            self.notice(format!(
                "table {}.{} has no column \"id\": the key column {:?} is the event id",
                relation.schema, relation.name, self.options.key_column
            ));
        }
        Table { relation: Arc::clone(relation), captured, columns: Arc::new(columns) }
    }

    fn notice(&mut self, text: String) {
        self.notices.push(text);
    }

    fn message(&mut self, change: &Change, row: &Row, columns: &Columns) -> Result<Message, String> {
        let fields = Fields::new(row);
        let timestamp = match columns.timestamp {
            Some(slot) => timestamp(fields, slot)?.unwrap_or(change.commit.time_us),
            None => change.commit.time_us,
        };
        let route = fields.text(columns.route)?.ok_or_else(|| fields.says(columns.route, "is null: no topic"))?;
        let topic = self.topics.name(route).map_err(|why| fields.says(columns.route, &why))?;
        let id_text = fields.utf8(columns.id)?;
        let id = id_text.filter(|text| !text.is_empty()).map_or_else(|| stable_id(change), |t| MessageId(t.into()));
        let event_type = match columns.event_type {
            Some(slot) => fields.text(slot)?,
            None => Some(route),
        };
        let (payload, content_type) = self.value(fields, columns)?;
        Ok(Message {
            topic,
            event_type: event_type.map(|text| self.event_type(text)).transpose()?,
            key: self.key(fields, columns.key)?,
            headers: self.headers(&change.commit, fields, columns, &id)?,
            content_type,
            payload,
            partition: columns.partition.map(|slot| partition(fields, slot)).transpose()?.flatten(),
            timestamp: Timestamp(timestamp),
            id,
        })
    }

    pub(super) fn options(&self) -> &OutboxOptions {
        &self.options
    }

    pub(super) fn settings(&self) -> &RouteSettings {
        &self.settings
    }

    pub(super) fn topic(&mut self, route: &Bytes) -> Result<Arc<str>, String> {
        self.topics.name(route)
    }

    pub(super) fn event_type(&mut self, text: &Bytes) -> Result<Arc<str>, String> {
        if let Some(known) = self.event_types.get(text) {
            return Ok(Arc::clone(known));
        }
        let name: Arc<str> = std::str::from_utf8(text).map_err(|_| "the event type is not UTF-8")?.into();
        if self.event_types.len() >= REMEMBERED {
            self.event_types.clear();
        }
        self.event_types.insert(Bytes::copy_from_slice(text), Arc::clone(&name));
        Ok(name)
    }

    fn key(&self, fields: Fields<'_>, slot: Slot) -> Result<Option<Bytes>, String> {
        match self.settings.key_format {
            Format::String | Format::Plain => fields.text(slot).map(Option::<&Bytes>::cloned),
            Format::Binary => fields.fit(slot, |value| plain::binary(slot.kind, value)),
            Format::Json if fields.value(slot)? == &Value::Null => Ok(None),
            Format::Json => {
                let mut out = Vec::new();
                fields.fit(slot, |value| plain::write_json(&mut out, slot.kind, value))?;
                Ok(Some(out.into()))
            }
        }
    }

    fn headers(
        &self,
        commit: &Commit,
        fields: Fields<'_>,
        columns: &Columns,
        id: &MessageId,
    ) -> Result<Headers, String> {
        let mut headers = Headers(Vec::with_capacity(1 + columns.headers.len()));
        let id_value = match self.header(fields, columns.id)? {
            HeaderValue::Null => HeaderValue::Text(Bytes::copy_from_slice(id.0.as_bytes())),
            value => value,
        };
        headers.push(Arc::clone(&self.id_header), id_value);
        for (name, slot) in &columns.headers {
            headers.push(Arc::clone(name), self.header(fields, *slot)?);
        }
        // A transaction of the log has a number. The record begins at `lsn`: one byte further is inside of it.
        if let (Some(name), Some(_)) = (&self.lsn_header, commit.xid) {
            headers.push(Arc::clone(name), HeaderValue::Text(Lsn(commit.lsn + 1).to_string().into()));
        }
        Ok(headers)
    }

    fn header(&self, fields: Fields<'_>, slot: Slot) -> Result<HeaderValue, String> {
        match self.settings.header_format {
            Format::Plain | Format::Binary => fields.fit(slot, |value| plain::header(slot.kind, value)),
            Format::String => Ok(fields.text(slot)?.map_or(HeaderValue::Null, |text| HeaderValue::Text(text.clone()))),
            Format::Json => {
                let mut out = Vec::new();
                fields.fit(slot, |value| plain::write_json(&mut out, slot.kind, value))?;
                Ok(HeaderValue::Text(out.into()))
            }
        }
    }

    /// The body and its MIME type. `None` is a tombstone, made only where the option asks for it.
    fn value(&self, fields: Fields<'_>, columns: &Columns) -> Result<(Option<Bytes>, &'static str), String> {
        const JSON: &str = "application/json";
        let slot = columns.payload;
        if self.options.tombstone_on_empty && fields.text(slot)?.is_none_or(|text| is_blank(text)) {
            return Ok((None, JSON));
        }
        if !columns.members.is_empty() {
            return Ok((Some(self.envelope(fields, columns)?), JSON));
        }
        match self.settings.value_format {
            Format::Json | Format::Plain => {
                // Already JSON and to be expanded: the row's own bytes, not a copy.
                let payload = fields.utf8(slot)?.map(str::as_bytes);
                if self.splices() && payload.is_some_and(|text| is_json(slot.kind, text)) {
                    return Ok((fields.text(slot)?.cloned(), JSON));
                }
                let mut out = Vec::with_capacity(payload.map_or(0, <[u8]>::len) + 16);
                self.write_payload(&mut out, fields, slot)?;
                Ok((Some(out.into()), JSON))
            }
            Format::String => {
                let content_type = if slot.kind == Kind::Json { JSON } else { "text/plain; charset=utf-8" };
                Ok((Some(fields.text(slot)?.cloned().unwrap_or_default()), content_type))
            }
            Format::Binary => {
                let bytes = fields.fit(slot, |value| plain::binary(slot.kind, value))?;
                Ok((Some(bytes.unwrap_or_default()), "application/octet-stream"))
            }
        }
    }

    /// Whether JSON payloads go out byte for byte.
    fn splices(&self) -> bool {
        self.options.expand_json && self.options.field_name_adjustment == FieldNameAdjustment::None
    }

    fn envelope(&self, fields: Fields<'_>, columns: &Columns) -> Result<Bytes, String> {
        let mut out = Vec::with_capacity(fields.size(columns));
        out.extend_from_slice(b"{\"payload\":");
        self.write_payload(&mut out, fields, columns.payload)?;
        for member in &columns.members {
            out.extend_from_slice(&member.prefix);
            fields.fit(member.slot, |value| plain::write_json(&mut out, member.slot.kind, value))?;
        }
        out.push(b'}');
        Ok(out.into())
    }

    /// Expanded, a payload that is JSON is spliced in, byte for byte; whatever else it is, it is a JSON string.
    fn write_payload(&self, out: &mut Vec<u8>, fields: Fields<'_>, slot: Slot) -> Result<(), String> {
        match fields.utf8(slot)? {
            Some(text) if slot.kind.is_text() => {
                if !self.options.expand_json || !is_json(slot.kind, text.as_bytes()) {
                    write_string(out, text, Escapes::Needed);
                } else if self.splices() {
                    out.extend_from_slice(text.as_bytes());
                } else {
                    out.extend_from_slice(rename_members(text, self.options.field_name_adjustment).as_bytes());
                }
                Ok(())
            }
            _ => fields.fit(slot, |value| plain::write_json(out, slot.kind, value)),
        }
    }
}

impl Route for OutboxRouter {
    fn apply(&mut self, change: &Change) -> Routed {
        match &change.event {
            Event::Row(row) => self.row(change, row),
            Event::Truncate { .. } => Routed::Filtered("truncate"),
            Event::Message(_) => {
                let hint = "a logical message is no row: the transform decode_logical_decoding_message_content makes one of it";
                rejected(change, None, hint.into())
            }
            Event::Undecodable { reason, .. } => rejected(change, None, format!("the change cannot be read: {reason}")),
        }
    }

    fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

fn check_formats(settings: &RouteSettings) -> Result<(), RouteConfigError> {
    for (part, format) in [("keys", settings.key_format), ("values", settings.value_format)] {
        if format == Format::Plain {
            return Err(RouteConfigError::PlainFormat { part });
        }
    }
    if settings.header_format == Format::Binary {
        return Err(RouteConfigError::BinaryHeaders);
    }
    Ok(())
}

/// What can be wrong with the options themselves, whoever applies them.
pub(in crate::transform) fn check_options(
    options: &OutboxOptions,
    strict: bool,
    value_format: Format,
    placements: &[Placement],
) -> Result<(), RouteConfigError> {
    for (option, column) in [
        ("key_column", Some(&options.key_column)),
        ("payload_column", Some(&options.payload_column)),
        ("route_by", Some(&options.route_by)),
        ("id_column", options.id_column.as_ref()),
        ("timestamp_column", options.timestamp_column.as_ref()),
        ("lsn_header", options.lsn_header.as_ref()),
    ] {
        if column.is_some_and(String::is_empty) {
            return Err(RouteConfigError::Empty { option });
        }
    }
    if options.lsn_header.is_some() && strict {
        return Err(RouteConfigError::LsnHeader);
    }
    if value_format == Format::Binary && placements.iter().any(|p| p.place == Place::Envelope) {
        return Err(RouteConfigError::BinaryEnvelope);
    }
    Ok(())
}

/// The values of a row, and words for what is wrong with one.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) row: &'a Row,
    values: &'a [Value],
}

impl<'a> Fields<'a> {
    pub(super) fn new(row: &'a Row) -> Self {
        Fields { row, values: row.new.as_ref().map(|tuple| tuple.0.as_slice()).unwrap_or_default() }
    }

    fn value(self, slot: Slot) -> Result<&'a Value, String> {
        self.values.get(slot.index).ok_or_else(|| self.says(slot, "has no value in this row"))
    }

    pub(super) fn fit<T>(
        self,
        slot: Slot,
        read: impl FnOnce(&'a Value) -> Result<T, plain::ValueError>,
    ) -> Result<T, String> {
        read(self.value(slot)?).map_err(|error| self.says(slot, &format!("cannot be written: {error}")))
    }

    pub(super) fn text(self, slot: Slot) -> Result<Option<&'a Bytes>, String> {
        self.fit(slot, plain::text)
    }

    pub(super) fn utf8(self, slot: Slot) -> Result<Option<&'a str>, String> {
        self.fit(slot, plain::utf8)
    }

    pub(super) fn says(self, slot: Slot, what: &str) -> String {
        let name = self.row.relation.columns.get(slot.index).map_or("?", |column| &column.name);
        format!("column {name:?} of {}.{} {what}", self.row.relation.schema, self.row.relation.name)
    }

    /// About the bytes of an envelope, so that it grows at most once.
    fn size(self, columns: &Columns) -> usize {
        let length = |slot: Slot| match self.values.get(slot.index) {
            Some(Value::Text(text)) => text.len(),
            _ => 4,
        };
        let members: usize = columns.members.iter().map(|m| m.prefix.len() + length(m.slot) + 4).sum();
        24 + length(columns.payload) + members
    }
}

fn is_json(kind: Kind, text: &[u8]) -> bool {
    kind == Kind::Json || (kind == Kind::Text && is_value(text))
}

/// Java's `trim().isEmpty()`: nothing above U+0020.
pub(in crate::transform) fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte <= 0x20)
}

/// µs since 1970. timestamp, timestamptz and date have a time; a bare number could be anything.
fn timestamp(fields: Fields<'_>, slot: Slot) -> Result<Option<i64>, String> {
    let Some(text) = fields.utf8(slot)? else { return Ok(None) };
    match slot.kind {
        Kind::Timestamp | Kind::TimestampTz | Kind::Date if text.ends_with("infinity") => Ok(None),
        Kind::Timestamp | Kind::TimestampTz | Kind::Date => {
            time::timestamp_us(text).map(Some).ok_or_else(|| fields.says(slot, "holds a time out of range"))
        }
        _ => Err(fields.says(slot, "is no event time: use a timestamp, timestamptz or date column")),
    }
}

pub(super) fn partition(fields: Fields<'_>, slot: Slot) -> Result<Option<i32>, String> {
    let Some(text) = fields.utf8(slot)? else { return Ok(None) };
    if !matches!(slot.kind, Kind::Int2 | Kind::Int4 | Kind::Int8) {
        return Err(fields.says(slot, "is no partition number: use an integer column"));
    }
    match text.parse() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(fields.says(slot, "holds a number that is no partition: 0 or more, with 31 bits")),
    }
}
