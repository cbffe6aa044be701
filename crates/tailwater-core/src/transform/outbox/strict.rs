//! The router's strict mode: Debezium's bytes for key, body, headers, topic and partition.
//!
//! What differs on purpose: where Debezium's task dies, the event is rejected and the next one is routed; the message's id
//! and the time of commit (there: the time of processing) are ours.

use super::columns::Columns;
use super::columns::Slot;
use super::expand::{Expanded, expand};
use super::reject::stable_id;
use super::router::{Fields, OutboxRouter, is_blank};
use crate::change::OldTuple;
use crate::encode::kind::Kind;
use crate::encode::strict::{Datum, bare, datum, simple, string, write_json};
use crate::encode::{plain, time};
use crate::route::Format;
use crate::{Change, HeaderValue, Headers, Message, MessageId, Operation, Row, Timestamp, Value};
use bytes::Bytes;
use std::sync::Arc;

/// What Debezium puts into each record's context headers.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextHeaders {
    pub task_id: String,
    pub connector_name: String,
    /// Unique per start of the process: the caller's business, since this crate has no randomness.
    pub run_id: String,
}

impl Default for ContextHeaders {
    fn default() -> Self {
        ContextHeaders { task_id: "0".into(), connector_name: "postgresql".into(), run_id: String::new() }
    }
}

/// Whether this update is, to Debezium, a delete and a create: its primary key changed.
pub fn changes_key(row: &Row) -> bool {
    row.operation == Operation::Update && matches!(row.old, Some(OldTuple::Key(_)))
}

impl OutboxRouter {
    pub(super) fn strict_message(&mut self, change: &Change, row: &Row, columns: &Columns) -> Result<Message, String> {
        let fields = Fields::new(row);
        let timestamp = match columns.timestamp {
            Some(slot) => strict_timestamp(fields, slot)?.unwrap_or(change.commit.time_us),
            None => change.commit.time_us,
        };
        let id = fields.utf8(columns.id)?.filter(|text| !text.is_empty());
        let id = id.map_or_else(|| stable_id(change), |text| MessageId(text.into()));
        let headers = self.strict_headers(fields, columns)?;
        let partition = columns.partition.map(|slot| strict_partition(fields, slot)).transpose()?.flatten();
        let payload = self.strict_value(fields, columns)?;
        let key = encode(&strict_datum(fields, columns.key)?, self.settings().key_format)?;
        let route = columns.route;
        if !matches!(bare_datum(fields, route)?, Datum::Text(_)) {
            return Err(fields.says(route, "has no text to route by"));
        }
        let text = fields.text(route)?.ok_or_else(|| fields.says(route, "is null: no topic"))?;
        let event_type = match columns.event_type {
            Some(slot) => fields.text(slot)?,
            None => Some(text),
        };
        let event_type = event_type.map(|text| self.event_type(text)).transpose()?;
        let topic = self.topic(text).map_err(|why| fields.says(route, &why))?;
        Ok(Message {
            id,
            topic,
            event_type,
            key,
            headers,
            content_type: content_type(self.settings().value_format),
            payload,
            partition,
            timestamp: Timestamp(timestamp),
        })
    }

    fn strict_headers(&self, fields: Fields<'_>, columns: &Columns) -> Result<Headers, String> {
        let format = self.settings().header_format;
        let mut headers = Headers::default();
        if changes_key(fields.row) {
            headers.push("__debezium.oldkey", header(&old_key(fields.row)?, format));
        }
        if let Some(context) = &self.settings().context_headers {
            for (name, text) in [
                ("__debezium.context.connectorLogicalName", &self.settings().topic_prefix),
                ("__debezium.context.taskId", &context.task_id),
                ("__debezium.context.connectorName", &context.connector_name),
                ("__debezium.context.runId", &context.run_id),
            ] {
                headers.push(name, header(&Datum::Text(text.clone()), format));
            }
        }
        headers.push("id", header(&strict_datum(fields, columns.id)?, format));
        for (name, slot) in &columns.headers {
            headers.push(Arc::clone(name), header(&strict_datum(fields, *slot)?, format));
        }
        Ok(headers)
    }

    fn strict_value(&self, fields: Fields<'_>, columns: &Columns) -> Result<Option<Bytes>, String> {
        let slot = columns.payload;
        let mut payload = strict_datum(fields, slot)?;
        let mut unfit = None;
        if self.options().expand_json
            && slot.kind.is_text()
            && let Datum::Text(text) = &payload
        {
            match expand(text, self.options()) {
                Expanded::Value(value, _) => payload = value,
                Expanded::Bare if !columns.members.is_empty() => {
                    unfit = Some("an empty array cannot be expanded inside an envelope".into());
                }
                Expanded::Text | Expanded::Bare => {}
                Expanded::Unfit(why) => unfit = Some(why),
            }
        }
        let empty = match &payload {
            Datum::Null => true,
            Datum::Text(text) => is_blank(text.as_bytes()),
            _ => false,
        };
        if empty && self.options().tombstone_on_empty {
            return Ok(None);
        }
        // The string converter alone does not look at the schema that was inferred.
        let checked = !columns.members.is_empty() || self.settings().value_format != Format::String;
        if let Some(why) = unfit.filter(|_| checked) {
            return Err(fields.says(slot, &why));
        }
        if !columns.members.is_empty() {
            let mut members = vec![(Datum::name("payload"), payload)];
            for member in &columns.members {
                members.push((Datum::name(&member.name), strict_datum(fields, member.slot)?));
            }
            payload = Datum::Struct(members);
        }
        encode(&payload, self.settings().value_format)
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json | Format::Plain => "application/json",
        Format::String => "text/plain; charset=utf-8",
        Format::Binary => "application/octet-stream",
    }
}

fn strict_datum(fields: Fields<'_>, slot: Slot) -> Result<Datum, String> {
    read(fields, slot, datum)
}

fn bare_datum(fields: Fields<'_>, slot: Slot) -> Result<Datum, String> {
    read(fields, slot, bare)
}

type Read = fn(&crate::Column, &Value) -> Result<Datum, plain::ValueError>;

fn read(fields: Fields<'_>, slot: Slot, read: Read) -> Result<Datum, String> {
    let column = fields.row.relation.columns.get(slot.index).ok_or("a column of the table is gone")?;
    fields.fit(slot, |value| read(column, value))
}

/// The bytes of the converters for keys and values. JSON has a text for null, the others have nothing.
fn encode(datum: &Datum, format: Format) -> Result<Option<Bytes>, String> {
    Ok(match format {
        Format::Json | Format::Plain => {
            let mut out = Vec::new();
            write_json(&mut out, datum);
            Some(out.into())
        }
        Format::String => string(datum).map(Bytes::from),
        Format::Binary => match datum {
            Datum::Null => None,
            Datum::Bytes(bytes) => Some(Bytes::copy_from_slice(bytes)),
            _ => return Err("the binary format takes bytea columns only".into()),
        },
    })
}

fn header(datum: &Datum, format: Format) -> HeaderValue {
    let text = match format {
        Format::Json => {
            let mut out = Vec::new();
            write_json(&mut out, datum);
            return HeaderValue::Text(out.into());
        }
        Format::String => string(datum),
        Format::Plain | Format::Binary => simple(datum),
    };
    text.map_or(HeaderValue::Null, |text| HeaderValue::Text(text.into()))
}

/// The key columns of the old row.
fn old_key(row: &Row) -> Result<Datum, String> {
    let Some(OldTuple::Key(old)) = &row.old else { return Ok(Datum::Null) };
    let keys = row.relation.columns.iter().zip(&old.0).filter(|(column, _)| column.key);
    let member = |(column, value): (&crate::Column, &Value)| {
        let datum = datum(column, value).map_err(|error| format!("the old key cannot be written: {error}"))?;
        Ok((Datum::name(&column.name), datum))
    };
    keys.map(member).collect::<Result<_, String>>().map(Datum::Struct)
}

/// Milliseconds, in µs: whole ones, divided toward zero. Only `timestamp` columns are event times there.
fn strict_timestamp(fields: Fields<'_>, slot: Slot) -> Result<Option<i64>, String> {
    if slot.kind != Kind::Timestamp {
        return Err(fields.says(slot, "is no event time in strict compatibility: use a timestamp column"));
    }
    match fields.utf8(slot)? {
        None => Ok(None),
        Some(text) if text.ends_with("infinity") => Err(fields.says(slot, "is infinite: no event time")),
        Some(text) => time::timestamp_us(text)
            .map(|us| Some(us / 1000 * 1000))
            .ok_or_else(|| fields.says(slot, "holds a time out of range")),
    }
}

fn strict_partition(fields: Fields<'_>, slot: Slot) -> Result<Option<i32>, String> {
    if slot.kind != Kind::Int4 {
        return Err(fields.says(slot, "is no partition number in strict compatibility: use an integer column"));
    }
    super::router::partition(fields, slot)
}
