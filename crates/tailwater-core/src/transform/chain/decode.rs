//! `DecodeLogicalDecodingMessageContent`: a logical message that holds a JSON object → an inserted row.
//!
//! Strict compatibility infers its schema as Debezium does, with the losses of that. By default the object's members stay what
//! they are; objects and arrays in it are JSON as they were written, or, with schemas, structs if those hold all of it.

use super::event_router::Wire;
use super::{DecodeOptions, Step};
use crate::encode::connect::{ConnectRecord, Field, Schema, SchemaKind, Typed};
use crate::encode::strict::Datum;
use crate::transform::outbox::expand::{self, Expanded, Node, Shape};
use crate::transform::outbox::{FieldNameAdjustment, JsonNull, OutboxOptions, json_node};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// The schema of logical messages, by whose name they are known.
const MESSAGE: &str = "io.debezium.connector.postgresql.MessageValue";

#[derive(Debug)]
pub(super) struct Decode {
    expansion: OutboxOptions,
    wire: Wire,
    /// Of the message before, and what came of it: mostly the next one's too.
    last: Option<(Schema, Arc<Schema>)>,
}

impl Decode {
    pub fn new(options: DecodeOptions, wire: Wire) -> Decode {
        let json_null = if options.include_nulls { JsonNull::OptionalBytes } else { JsonNull::Ignore };
        Decode { expansion: OutboxOptions { json_null, ..OutboxOptions::default() }, wire, last: None }
    }

    pub fn apply(&mut self, mut record: ConnectRecord) -> Result<Step, String> {
        let name = record.value.schema.as_ref().and_then(|schema| schema.name.as_deref());
        if name != Some(MESSAGE) {
            return Ok(Step::Record(record));
        }
        let value = std::mem::replace(&mut record.value, Typed::NONE);
        let (Some(schema), Datum::Struct(members)) = (value.schema, value.datum) else {
            return Err("the logical message is no struct".into());
        };
        let mut after = None;
        let (mut fields, mut row) = (Vec::new(), Vec::new());
        for (field, (name, datum)) in schema.fields().iter().zip(members) {
            match &*field.name {
                "message" => after = Some(self.content(&datum)?),
                "op" => {
                    fields.push(field.clone());
                    row.push((name, Datum::Text("c".into())));
                }
                _ => {
                    fields.push(field.clone());
                    row.push((name, datum));
                }
            }
        }
        let (content, datum) = after.ok_or("the logical message has no content")?;
        row.push((Datum::name("after"), datum));
        record.key = Typed::NONE;
        record.value = Typed { schema: Some(self.envelope(fields, content)), datum: Datum::Struct(row) };
        Ok(Step::Record(record))
    }

    fn envelope(&mut self, mut fields: Vec<Field>, content: Schema) -> Arc<Schema> {
        if let Some((of, made)) = &self.last
            && *of == content
        {
            return Arc::clone(made);
        }
        fields.push(Field { name: "after".into(), schema: content.clone().shared() });
        let made = Schema::of(SchemaKind::Struct(fields)).named(format!("{MESSAGE}.Envelope"), None).shared();
        self.last = Some((content, Arc::clone(&made)));
        made
    }

    /// The object with its schema.
    fn content(&self, message: &Datum) -> Result<(Schema, Datum), String> {
        const UNFIT: &str = "the content of the logical message is no JSON object";
        let Datum::Struct(members) = message else { return Err(UNFIT.into()) };
        let content = members.iter().find(|(name, _)| name.iter().copied().eq("content".encode_utf16()));
        let Some((_, Datum::Bytes(bytes))) = content else {
            return Err("the content of the logical message is not binary: use the binary mode `bytes`".into());
        };
        let text = std::str::from_utf8(bytes).map_err(|_| "the content of the logical message is not UTF-8")?;
        if !self.wire.strict {
            return object(text, self.wire.schemas).ok_or_else(|| UNFIT.into());
        }
        match expand::expand(text, &self.expansion) {
            Expanded::Value(Datum::Struct(members), shape) => {
                let members = members.into_iter().map(|(name, datum)| (name, plain_text(datum))).collect();
                Ok((shape.schema(None)?, Datum::Struct(members)))
            }
            Expanded::Unfit(why) => Err(why),
            Expanded::Value(..) | Expanded::Text | Expanded::Bare => Err(UNFIT.into()),
        }
    }
}

/// A text of the document, as columns have theirs.
fn plain_text(datum: Datum) -> Datum {
    match datum {
        Datum::Utf16(units) => String::from_utf16(&units).map_or(Datum::Utf16(units), Datum::Text),
        other => other,
    }
}

/// The members of an object, in their order, as they were written.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Members, A::Error> {
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => self.0.push((name, value)),
            }
        }
        Ok(self)
    }
}

/// The members of an object; `None`: it is none. A name that occurs twice has its last value, as in JSON at large.
fn object(text: &str, schemas: bool) -> Option<(Schema, Datum)> {
    let Members(members) = serde_json::from_str(text).ok()?;
    let (mut fields, mut row) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
    for (name, raw) in members {
        let (schema, datum) = member(&name, raw.get(), schemas)?;
        row.push((Datum::name(&name), datum));
        fields.push(Field { name: name.into(), schema: schema.optional().shared() });
    }
    Some((Schema::of(SchemaKind::Struct(fields)).optional(), Datum::Struct(row)))
}

fn member(name: &str, raw: &str, schemas: bool) -> Option<(Schema, Datum)> {
    let json = |text: &str| {
        let schema = Schema::of(SchemaKind::String).named("io.debezium.data.Json", Some(1));
        Some((schema, Datum::Json(text.to_owned())))
    };
    Some(match json_node::parse(raw)? {
        Node::Null => (Schema::of(SchemaKind::String), Datum::Null),
        Node::Bool(value) => (Schema::of(SchemaKind::Boolean), Datum::Bool(value)),
        Node::Int(value) => (Schema::of(SchemaKind::Int32), Datum::Int(i64::from(value))),
        Node::Long(value) => (Schema::of(SchemaKind::Int64), Datum::Int(value)),
        Node::Text(units) => (Schema::of(SchemaKind::String), Datum::Text(String::from_utf16(&units).ok()?)),
        Node::Big | Node::Double(_) if !schemas => return json(raw),
        Node::Double(value) if value.is_finite() && !expand::has_long_decimals(raw) => {
            (Schema::of(SchemaKind::Float64), Datum::Double(value))
        }
        Node::Array(_) | Node::Object(_) if !schemas => return json(raw),
        Node::Array(_) | Node::Object(_) | Node::Big | Node::Double(_) => {
            let expanded = expand::expand_lossless(raw, FieldNameAdjustment::None);
            let typed =
                expanded.and_then(|(datum, shape): (Datum, Shape)| Some((shape.schema(Some(name)).ok()?, datum)));
            match typed {
                Some(typed) => typed,
                None => (Schema::of(SchemaKind::String), Datum::Text(raw.to_owned())),
            }
        }
    })
}
