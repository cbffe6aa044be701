//! What a column's type means for its text: decides quotes, numbers and conversions.
//!
//! Not here: any conversion. Types made by users (enums, domains, composites) have no fixed number; they are text.

use super::array;
use crate::Column;

/// Kinds of PostgreSQL types that are written differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Money,
    /// Text of any sort, and every type not listed here.
    Text,
    Uuid,
    /// json and jsonb: the server's text is known to be valid JSON.
    Json,
    Bytea,
    Bit,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    /// An array of a built-in type, with the type's number.
    Array(u32),
}

impl Kind {
    pub fn of(column: &Column) -> Kind {
        Kind::of_oid(column.type_oid)
    }

    /// By `pg_type.oid` of the built-in types (`pg_type.dat`; they never change).
    pub fn of_oid(oid: u32) -> Kind {
        match oid {
            16 => Kind::Bool,
            17 => Kind::Bytea,
            // `oid` is unsigned with 32 bits: it needs 64 with a sign
            20 | 26 => Kind::Int8,
            21 => Kind::Int2,
            23 => Kind::Int4,
            114 | 3802 => Kind::Json,
            700 => Kind::Float4,
            701 => Kind::Float8,
            790 => Kind::Money,
            1082 => Kind::Date,
            1083 => Kind::Time,
            1114 => Kind::Timestamp,
            1184 => Kind::TimestampTz,
            1186 => Kind::Interval,
            1266 => Kind::TimeTz,
            1560 | 1562 => Kind::Bit,
            1700 => Kind::Numeric,
            2950 => Kind::Uuid,
            _ if array::item_oid(oid).is_some() => Kind::Array(oid),
            _ => Kind::Text,
        }
    }

    /// Whether the text form is what Debezium calls a STRING.
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Text | Kind::Uuid | Kind::Json)
    }
}
