//! Debezium's dialect: a column value becomes a value of Kafka Connect, and that becomes the bytes of its converters.
//!
//! Covered are the types that outbox tables use, with Debezium's default modes (`decimal.handling.mode=precise`,
//! `time.precision.mode=adaptive`, `binary.handling.mode=bytes`, `interval.handling.mode=numeric`). A type that is not
//! covered is refused, never guessed. Not here: schemas (connect), other modes (transform/changes).

mod column;
mod write;

pub use column::{bare, datum};
pub(crate) use column::{bits, interval_us, java_date, quoted, zoned_time, zoned_timestamp};
pub(super) use write::write_string;
pub use write::{simple, string, write_json};

use super::decimal::Decimal;
use std::sync::Arc;

/// A value of Kafka Connect.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    Null,
    Bool(bool),
    Int(i64),
    Float(f32),
    Double(f64),
    Text(String),
    /// Text from JSON, in UTF-16 as Java has it: it may hold lone surrogates.
    Utf16(Vec<u16>),
    /// Text that is JSON and goes out as the JSON that it is, byte for byte: never in strict compatibility.
    Json(String),
    /// A `ByteBuffer`.
    Bytes(Vec<u8>),
    /// A `byte[]`, as in the struct of a numeric without scale.
    ByteArray(Vec<u8>),
    /// Logical type `Decimal`.
    Decimal(Decimal),
    /// Members in the order of their schema.
    Struct(Vec<(Arc<[u16]>, Datum)>),
    Array(Vec<Datum>),
}

impl Datum {
    /// A member's name, as structs keep it.
    pub fn name(text: &str) -> Arc<[u16]> {
        text.encode_utf16().collect()
    }
}
