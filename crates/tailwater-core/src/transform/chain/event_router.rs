//! The outbox event router as a link of a chain: over a change event instead of a row, with the schemas of its columns.
//!
//! It gives what [`OutboxRouter`](crate::transform::outbox::OutboxRouter) gives for the same row, and schemas beside it. The
//! options and their checks are the same. Not here: how a row becomes a change event.

use super::Step;
use super::event::{Event, is_envelope};
use crate::encode::connect::{ConnectHeader, ConnectRecord, Field, Schema, SchemaKind, Typed};
use crate::encode::json::is_value;
use crate::encode::strict::{Datum, simple};
use crate::encode::time;
use crate::pgoutput::Lsn;
use crate::route::Format;
use crate::transform::outbox::expand::{self, Expanded};
use crate::transform::outbox::names::rename_members;
use crate::transform::outbox::placement::{self, Place, Placement};
use crate::transform::outbox::router::{check_options, is_blank};
use crate::transform::outbox::topic::TopicNames;
use crate::transform::outbox::{FieldNameAdjustment, MissingColumn, OnUpdate, OutboxOptions, RouteConfigError};
use crate::{Change, MessageId, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// What ends the values: it decides what a payload may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub strict: bool,
    pub format: Format,
    pub schemas: bool,
}

#[derive(Debug)]
pub(super) struct EventRouter {
    options: OutboxOptions,
    placements: Vec<Placement>,
    topics: TopicNames,
    wire: Wire,
    envelopes: HashMap<Vec<u8>, Arc<Schema>>,
}

/// So many schemas of envelopes are remembered; then all are forgotten.
const REMEMBERED: usize = 10_000;

impl EventRouter {
    pub fn new(options: &OutboxOptions, wire: Wire) -> Result<EventRouter, RouteConfigError> {
        let placements = options.placement.as_deref().map(placement::parse).transpose()?.unwrap_or_default();
        check_options(options, wire.strict, wire.format, &placements)?;
        Ok(EventRouter {
            topics: TopicNames::new(&options.topic_regex, &options.topic_replacement)?,
            options: options.clone(),
            placements,
            wire,
            envelopes: HashMap::new(),
        })
    }

    pub fn apply(&mut self, change: &Change, mut record: ConnectRecord) -> Result<Step, String> {
        if record.value.datum == Datum::Null {
            return Ok(Step::Dropped("tombstone"));
        }
        if !is_envelope(&record.value) {
            return Ok(Step::Record(record));
        }
        let envelope = std::mem::replace(&mut record.value, Typed::NONE);
        let Some(Datum::Text(operation)) = envelope.member("op") else {
            return Err("the change event has no operation".into());
        };
        // A changed key is a delete and a create there; by default it is the update that it was.
        let renewed = || record.headers.iter().any(|header| &*header.name == "__debezium.oldkey");
        match operation.as_str() {
            "d" => return Ok(Step::Dropped("delete")),
            // It holds no event; Debezium's task dies of it, when it is told not to skip it.
            "t" => return Ok(Step::Dropped("truncate")),
            "u" => return self.update().map(Step::Dropped),
            "c" if !self.wire.strict && renewed() => return self.update().map(Step::Dropped),
            _ => {}
        }
        let event = Event::of(&envelope, self.wire.strict).ok_or("the change event has no new row")?;
        self.route(change, &event, record).map(Step::Record)
    }

    /// The rule by which an update is dropped.
    pub fn update(&self) -> Result<&'static str, String> {
        match self.options.on_update {
            OnUpdate::Warn => Ok("update"),
            OnUpdate::Error => Ok("update_as_error"),
            OnUpdate::Fatal => Err("an outbox row was updated, and on_update = \"fatal\" forbids it".into()),
        }
    }

    /// In the order in which Debezium's router asks for columns.
    fn route(
        &mut self,
        change: &Change,
        event: &Event<'_>,
        mut record: ConnectRecord,
    ) -> Result<ConnectRecord, String> {
        let payload = column(event, &self.options.payload_column, "payload")?;
        if let Some(name) = &self.options.timestamp_column {
            let (schema, datum) = column(event, name, "timestamp")?;
            let us = event_time(schema, datum, self.wire.strict).map_err(|why| says(name, why))?;
            record.timestamp = us.map_or(record.timestamp, Timestamp);
        }
        let (id_schema, id) = self.id(event)?;
        let text = match id {
            Datum::Bytes(bytes) => Some(format!("\\x{}", to_hex(bytes))),
            other => simple(other),
        };
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            record.id = MessageId(text.into());
        }
        let id = match (id, self.wire.strict) {
            // What has no id of its own has that of the message.
            (Datum::Null, false) => Typed::text(record.id.to_string()),
            _ => Typed::new(id_schema, id.clone()),
        };
        record.headers.push(ConnectHeader { name: "id".into(), value: id });
        let value = self.payload(payload)?;
        self.place(event, &mut record)?;
        let (key_schema, key) = column(event, &self.options.key_column, "key")?;
        let (route_schema, route) = column(event, &self.options.route_by, "route")?;
        let route = self.route_text(route_schema, route).map_err(|why| says(&self.options.route_by, why))?;
        record.value = self.value(event, value, &route)?;
        // By default a null key is none, for every format.
        record.key =
            if !self.wire.strict && *key == Datum::Null { Typed::NONE } else { Typed::new(key_schema, key.clone()) };
        let event_type = match event.column(&self.options.type_column) {
            Some((_, datum)) => simple(datum),
            None => Some(route.clone()),
        };
        record.event_type = event_type.map(Into::into);
        if let (Some(name), Some(_)) = (&self.options.lsn_header, change.commit.xid) {
            let text = Lsn(change.commit.lsn + 1).to_string();
            record.headers.push(ConnectHeader { name: name.as_str().into(), value: Typed::text(text) });
        }
        let topic = self.topics.name(route.as_bytes());
        record.topic = topic.map_err(|why| says(&self.options.route_by, &why))?;
        Ok(record)
    }

    fn id<'a>(&self, event: &Event<'a>) -> Result<(&'a Arc<Schema>, &'a Datum), String> {
        let stand_in = || event.column(&self.options.key_column).filter(|_| !self.wire.strict);
        match &self.options.id_column {
            Some(name) => column(event, name, "id"),
            None => event.column("id").or_else(stand_in).ok_or_else(|| missing("id", "id")),
        }
    }

    fn route_text(&self, schema: &Schema, route: &Datum) -> Result<String, &'static str> {
        match route {
            Datum::Null => Err("is null: no topic"),
            Datum::Text(text) if schema.kind == SchemaKind::String => Ok(text.clone()),
            _ if self.wire.strict => Err("has no text to route by"),
            other => simple(other).ok_or("is null: no topic"),
        }
    }

    /// The payload, expanded if so wanted. A second part is why it cannot be written with its schema.
    fn payload(&self, (schema, datum): (&Arc<Schema>, &Datum)) -> Result<(Typed, Option<String>), String> {
        let Datum::Text(text) = datum else { return Ok((Typed::new(schema, datum.clone()), None)) };
        let unchanged = Typed::new(schema, datum.clone());
        if !self.options.expand_json || schema.kind != SchemaKind::String {
            return Ok((unchanged, None));
        }
        let column = &self.options.payload_column;
        if self.wire.strict {
            return Ok(match expand::expand(text, &self.options) {
                Expanded::Value(datum, shape) => match shape.schema(Some(column)) {
                    Ok(schema) => (Typed { schema: Some(schema.shared()), datum }, None),
                    Err(why) => (unchanged, Some(says(column, why))),
                },
                Expanded::Text => (unchanged, None),
                Expanded::Bare => (Typed { schema: None, datum: datum.clone() }, None),
                Expanded::Unfit(why) => (unchanged, Some(says(column, &why))),
            });
        }
        let named = schema.name.as_deref().is_some_and(|name| name == "io.debezium.data.Json");
        if !named && !is_value(text.as_bytes()) {
            return Ok((unchanged, None));
        }
        Ok((self.lossless(text, schema, unchanged), None))
    }

    /// By default the payload stays what it is: its own bytes, or, with schemas, a struct that holds all of it.
    fn lossless(&self, text: &str, schema: &Arc<Schema>, unchanged: Typed) -> Typed {
        let mode = self.options.field_name_adjustment;
        if !self.wire.schemas {
            let json = if mode == FieldNameAdjustment::None { text.into() } else { rename_members(text, mode) };
            return Typed::new(schema, Datum::Json(json));
        }
        let expanded = expand::expand_lossless(text, mode);
        let typed = expanded.and_then(|(datum, shape)| {
            let schema = shape.schema(Some(&self.options.payload_column)).ok()?;
            Some(Typed { schema: Some(schema.shared()), datum })
        });
        typed.unwrap_or(unchanged)
    }

    /// Headers and the partition.
    fn place(&self, event: &Event<'_>, record: &mut ConnectRecord) -> Result<(), String> {
        for placement in &self.placements {
            let Some((schema, datum)) = self.additional(event, placement)? else { continue };
            match placement.place {
                Place::Envelope => {}
                Place::Header => {
                    let value = Typed::new(schema, datum.clone());
                    record.headers.push(ConnectHeader { name: placement.alias.as_str().into(), value });
                }
                Place::Partition => {
                    record.partition = self.partition(schema, datum).map_err(|why| says(&placement.column, why))?;
                }
            }
        }
        Ok(())
    }

    fn additional<'a>(
        &self,
        event: &Event<'a>,
        placement: &Placement,
    ) -> Result<Option<(&'a Arc<Schema>, &'a Datum)>, String> {
        match event.column(&placement.column) {
            Some(column) => Ok(Some(column)),
            None if self.options.missing_column == MissingColumn::Ignore => Ok(None),
            None => Err(missing("additional", &placement.column)),
        }
    }

    fn partition(&self, schema: &Schema, datum: &Datum) -> Result<Option<i32>, &'static str> {
        let integer = match schema.kind {
            SchemaKind::Int32 => true,
            SchemaKind::Int16 | SchemaKind::Int64 => !self.wire.strict,
            _ => false,
        };
        match datum {
            _ if !integer => Err("is no partition number: use an integer column"),
            Datum::Null => Ok(None),
            Datum::Int(number) => match i32::try_from(*number) {
                Ok(number) if number >= 0 => Ok(Some(number)),
                _ => Err("holds a number that is no partition: 0 or more, with 31 bits"),
            },
            _ => Err("is no partition number: use an integer column"),
        }
    }

    /// The body: a tombstone, the payload, or an envelope around it.
    fn value(
        &mut self,
        event: &Event<'_>,
        (payload, unfit): (Typed, Option<String>),
        route: &str,
    ) -> Result<Typed, String> {
        let empty = match &payload.datum {
            Datum::Null => true,
            Datum::Text(text) | Datum::Json(text) => is_blank(text.as_bytes()),
            _ => false,
        };
        if empty && self.options.tombstone_on_empty {
            return Ok(Typed::NONE);
        }
        let enveloped = self.placements.iter().any(|placement| placement.place == Place::Envelope);
        // The string converter alone does not look at the schema that was inferred.
        if let Some(why) = unfit.filter(|_| enveloped || self.wire.format != Format::String) {
            return Err(why);
        }
        if enveloped {
            return self.envelope(event, payload, route);
        }
        // Without the option a null is no tombstone, not even in a format without a text for it.
        Ok(match (&payload.datum, self.wire.format) {
            (Datum::Null, Format::String) if !self.wire.strict => {
                Typed { schema: payload.schema, datum: Datum::Text(String::new()) }
            }
            (Datum::Null, Format::Binary) if !self.wire.strict => {
                Typed { schema: payload.schema, datum: Datum::Bytes(Vec::new()) }
            }
            _ => payload,
        })
    }

    fn envelope(&mut self, event: &Event<'_>, payload: Typed, route: &str) -> Result<Typed, String> {
        let version = match &self.options.schema_version_column {
            None => None,
            Some(name) => match column(event, name, "schema version")? {
                (schema, Datum::Int(version)) if schema.kind == SchemaKind::Int32 => Some(*version as i32),
                (schema, Datum::Null) if schema.kind == SchemaKind::Int32 => None,
                _ => return Err(says(name, "is no schema version: it must be an integer column")),
            },
        };
        let payload_schema = payload.schema.ok_or("an empty array cannot be expanded inside an envelope")?;
        let mut fields = vec![Field { name: "payload".into(), schema: payload_schema }];
        let mut members = vec![(Datum::name("payload"), payload.datum)];
        let placements = self.placements.iter().filter(|placement| placement.place == Place::Envelope);
        for placement in placements {
            let Some((schema, datum)) = self.additional(event, placement)? else { continue };
            fields.push(Field { name: placement.alias.as_str().into(), schema: Arc::clone(schema) });
            members.push((Datum::name(&placement.alias), datum.clone()));
        }
        let schema = self.envelope_schema(event, fields, version, route)?;
        Ok(Typed { schema: Some(schema), datum: Datum::Struct(members) })
    }

    /// Debezium remembers an envelope's schema by its payload's, or by its version: the first event names it for all others.
    /// Only strict compatibility does so too; where the remembered schema does not fit, its task dies.
    fn envelope_schema(
        &mut self,
        event: &Event<'_>,
        fields: Vec<Field>,
        version: Option<i32>,
        route: &str,
    ) -> Result<Arc<Schema>, String> {
        let versioned = self.options.schema_version_column.is_some();
        let mut key = Vec::with_capacity(256);
        if versioned {
            key.extend_from_slice(format!("{version:?}").as_bytes());
        }
        if !self.wire.strict {
            key.extend_from_slice(
                format!(" {route} {}", event.schema().name.as_deref().unwrap_or_default()).as_bytes(),
            );
        }
        for field in fields.iter().take(if !self.wire.strict { usize::MAX } else { usize::from(!versioned) }) {
            key.extend_from_slice(field.schema.json(false));
        }
        if let Some(known) = self.envelopes.get(&key) {
            let fits = known.fields() == fields;
            return if fits {
                Ok(Arc::clone(known))
            } else {
                Err("the event does not fit the schema of the events before it, which has the same version or payload"
                    .into())
            };
        }
        let name = match event.schema().name.as_deref() {
            Some(name) => match name.rsplit_once('.') {
                Some((head, last)) => format!("{head}.{route}.{last}"),
                None => format!("{route}.{name}"),
            },
            None => route.to_owned(),
        };
        let schema = Schema::of(SchemaKind::Struct(fields)).named(name, version).shared();
        if self.envelopes.len() >= REMEMBERED {
            self.envelopes.clear();
        }
        self.envelopes.insert(key, Arc::clone(&schema));
        Ok(schema)
    }
}

fn column<'a>(event: &Event<'a>, name: &str, what: &str) -> Result<(&'a Arc<Schema>, &'a Datum), String> {
    event.column(name).ok_or_else(|| missing(what, name))
}

/// As the server prints bytes.
fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn missing(what: &str, name: &str) -> String {
    format!("the event has no {what} column {name:?}")
}

fn says(column: &str, what: &str) -> String {
    format!("column {column:?} {what}")
}

/// µs since 1970; `None`: null or infinite. Strict: whole milliseconds, and only of the types that Debezium takes.
fn event_time(schema: &Schema, datum: &Datum, strict: bool) -> Result<Option<i64>, &'static str> {
    const UNFIT: &str = "is no event time: use a timestamp, timestamptz or date column";
    let name = schema.name.as_deref().unwrap_or_default();
    let debezium = name.strip_prefix("io.debezium.time.");
    let number = match datum {
        Datum::Null if schema.kind == SchemaKind::Int64 || !strict => return Ok(None),
        Datum::Int(number) if schema.kind == SchemaKind::Int64 || !strict => *number,
        Datum::Text(text) if !strict => match debezium {
            Some("ZonedTimestamp" | "IsoTimestamp") => {
                let text = text.replacen('T', " ", 1);
                let text = text.strip_suffix('Z').unwrap_or(&text);
                return time::timestamp_us(text).map(Some).ok_or("holds a time out of range");
            }
            _ => return Err(UNFIT),
        },
        _ => return Err(UNFIT),
    };
    let us = match debezium {
        // The server's infinity: what Java makes of it is the time of nothing.
        Some(kind) if is_infinite(kind, number) => {
            return if strict { Err("is infinite: no event time") } else { Ok(None) };
        }
        Some("Timestamp") => number.checked_mul(1000),
        Some("MicroTimestamp") if strict => Some(number / 1000 * 1000),
        Some("MicroTimestamp") => Some(number),
        Some("NanoTimestamp") if strict => Some(number / 1_000_000 * 1000),
        Some("NanoTimestamp") => Some(number.div_euclid(1000)),
        Some("Date") if !strict => number.checked_mul(86_400_000_000),
        _ => match name.strip_prefix("org.apache.kafka.connect.data.") {
            Some("Timestamp") if !strict => number.checked_mul(1000),
            Some("Date") if !strict => number.checked_mul(86_400_000_000),
            _ => return Err(UNFIT),
        },
    };
    us.map(Some).ok_or("holds a time out of range")
}

/// Whether this is what the server's infinity is read as.
fn is_infinite(kind: &str, number: i64) -> bool {
    match kind {
        "Date" => number.unsigned_abs() > 2_140_000_000,
        "Timestamp" => number.unsigned_abs() > 9_000_000_000_000_000_000,
        _ => number == i64::MAX || number == i64::MIN,
    }
}
