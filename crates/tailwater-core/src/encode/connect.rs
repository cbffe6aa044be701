//! Kafka Connect's data: schemas, values with their schemas, records, and the converters that end them in bytes.
//!
//! ```text
//!   change ──router──▶ ConnectRecord(s) ──transforms──▶ ConnectRecord ──Converters::message──▶ Message
//! ```
//!
//! Schemas are shared by all records of a table and keep their JSON once it was written. Not here: which column has which
//! schema (transform/changes), and the bytes of values without schema (strict).

mod convert;
mod schema;

pub use convert::{Converter, Converters};
pub use schema::{Field, Schema, SchemaKind};

use super::strict::Datum;
use crate::{MessageId, Timestamp};
use std::sync::Arc;

/// A value and the schema it follows: Connect's `SchemaAndValue`. Without a schema it is written as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    pub schema: Option<Arc<Schema>>,
    pub datum: Datum,
}

impl Typed {
    /// No value and no schema: no bytes at all.
    pub const NONE: Typed = Typed { schema: None, datum: Datum::Null };

    pub fn new(schema: &Arc<Schema>, datum: Datum) -> Typed {
        Typed { schema: Some(Arc::clone(schema)), datum }
    }

    /// A text that cannot be null.
    pub fn text(text: impl Into<String>) -> Typed {
        Typed { schema: Some(Schema::of(SchemaKind::String).shared()), datum: Datum::Text(text.into()) }
    }

    /// Whether it is a null without a schema: what a tombstone has for a value.
    pub fn is_none(&self) -> bool {
        self.schema.is_none() && self.datum == Datum::Null
    }

    /// The member of this name, where it is a struct; null with a default is the default, as `Struct.get` reads it.
    pub fn member(&self, name: &str) -> Option<&Datum> {
        let Datum::Struct(members) = &self.datum else { return None };
        let (_, datum) = members.iter().find(|(known, _)| known.iter().copied().eq(name.encode_utf16()))?;
        let field = || self.schema.as_ref()?.field(name)?.schema.default.as_ref();
        Some(if *datum == Datum::Null { field().unwrap_or(datum) } else { datum })
    }
}

/// One record on its way to Kafka: what single message transforms work on.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectRecord {
    /// Becomes the message's id: unique, repeated by every replay.
    pub id: MessageId,
    pub event_type: Option<Arc<str>>,
    pub topic: Arc<str>,
    /// Explicit partition.
    pub partition: Option<i32>,
    pub key: Typed,
    pub value: Typed,
    /// In order; a name may occur twice.
    pub headers: Vec<ConnectHeader>,
    pub timestamp: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConnectHeader {
    pub name: Arc<str>,
    pub value: Typed,
}
