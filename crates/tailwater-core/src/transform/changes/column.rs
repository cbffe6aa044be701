//! A column → its schema and how its text is read, by the type mapping of Debezium's PostgreSQL connector.
//!
//! A type that is not covered has no mapping: the table refuses it by name, or leaves it out where Debezium does.

use super::read::{ArrayReading, Reading, Unit, binary, point_at};
use super::{BinaryMode, ChangeOptions, DecimalMode, HstoreMode, IntervalMode, TimeMode};
use crate::Column;
use crate::change::ColumnCatalog;
use crate::encode::array::item_oid;
use crate::encode::connect::{Field, Schema, SchemaKind};
use crate::encode::decimal::Decimal;
use crate::encode::kind::Kind;
use crate::encode::strict::Datum;
use crate::pgoutput::oid;

/// What a column is in Connect.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    /// Not optional, without default.
    pub schema: Schema,
    pub reading: Reading,
}

/// The parts of a column that decide its mapping.
#[derive(Clone, Copy)]
pub(super) struct Type<'a> {
    pub oid: u32,
    pub modifier: i32,
    /// As `format_type` prints it, without schema and `[]`.
    pub name: &'a str,
    labels: Option<&'a [std::sync::Arc<str>]>,
    element: Option<u32>,
    in_array: bool,
}

impl<'a> Type<'a> {
    pub fn of(column: &'a Column) -> Type<'a> {
        let catalog: Option<&ColumnCatalog> = column.catalog.as_ref();
        let (oid, modifier) =
            catalog.and_then(|catalog| catalog.base_type).unwrap_or((column.type_oid, column.type_modifier));
        let name = catalog.map_or("", |catalog| &*catalog.type_name).trim_end_matches("[]");
        Type {
            oid,
            modifier,
            name: name.rsplit_once('.').map_or(name, |(_, bare)| bare).trim_matches('"'),
            labels: catalog.and_then(|catalog| catalog.enum_labels.as_deref()),
            element: catalog.and_then(|catalog| catalog.element_type).or_else(|| element_of(oid)),
            in_array: false,
        }
    }
}

/// Arrays of built-in types, by the number of the array (`pg_type.dat`).
fn element_of(array: u32) -> Option<u32> {
    match array {
        775 => Some(oid::MACADDR8),
        1017 => Some(oid::POINT),
        3643 => Some(oid::TSVECTOR),
        3905 | 3907 | 3909 | 3911 | 3913 | 3927 => Some(array - 1),
        _ => item_oid(array),
    }
}

/// Whether Debezium has a mapping of its own for a type that is not covered here: then strict compatibility cannot leave the
/// column out, as Debezium does with types that it does not know.
pub(super) fn is_mapped_there(column: Type<'_>) -> bool {
    const LSEG: u32 = 601;
    const POLYGON: u32 = 604;
    const LINE: u32 = 628;
    const CIRCLE: u32 = 718;
    let of = column.element.unwrap_or(column.oid);
    matches!(of, LSEG..=POLYGON | LINE | CIRCLE)
        || matches!(column.name, "geometry" | "geography" | "vector" | "halfvec" | "sparsevec")
}

/// The mapping of a column. `None`: this type is not covered.
pub(super) fn mapped(column: Type<'_>, options: &ChangeOptions, strict: bool) -> Option<Mapped> {
    if let Some(element) = column.element {
        return array(column, element, options, strict);
    }
    let plain = |kind, reading| Some(Mapped { schema: Schema::of(kind), reading });
    let logical = |kind, name: &str, reading| Some(Mapped { schema: Schema::of(kind).named(name, Some(1)), reading });
    let text = |name: &str| logical(SchemaKind::String, name, Reading::Text);
    match Kind::of_oid(column.oid) {
        Kind::Bool => plain(SchemaKind::Boolean, Reading::Bool),
        Kind::Int2 => plain(SchemaKind::Int16, Reading::Integer),
        Kind::Int4 => plain(SchemaKind::Int32, Reading::Integer),
        Kind::Int8 => plain(SchemaKind::Int64, Reading::Integer),
        Kind::Float4 => plain(SchemaKind::Float32, Reading::Float),
        Kind::Float8 => plain(SchemaKind::Float64, Reading::Double),
        Kind::Numeric => Some(numeric(column.modifier, options, strict)),
        Kind::Money => Some(money(options)),
        Kind::Uuid => text("io.debezium.data.Uuid"),
        Kind::Json => text("io.debezium.data.Json"),
        Kind::Bytea => {
            let kind = if options.binary == BinaryMode::Bytes { SchemaKind::Bytes } else { SchemaKind::String };
            plain(kind, Reading::Bytes(options.binary))
        }
        Kind::Bit if column.oid == oid::BIT && column.modifier == 1 => plain(SchemaKind::Boolean, Reading::Bit),
        Kind::Bit => Some(bits(column.modifier)),
        Kind::Date | Kind::Time | Kind::Timestamp => Some(temporal(column, options.time, strict)),
        Kind::TimestampTz => {
            let reading = Reading::ZonedTimestamp { modifier: column.modifier };
            logical(SchemaKind::String, "io.debezium.time.ZonedTimestamp", reading)
        }
        Kind::TimeTz => logical(SchemaKind::String, "io.debezium.time.ZonedTime", Reading::ZonedTime),
        Kind::Interval if options.interval == IntervalMode::Numeric => {
            logical(SchemaKind::Int64, "io.debezium.time.MicroDuration", Reading::Interval)
        }
        Kind::Interval => logical(SchemaKind::String, "io.debezium.time.Interval", Reading::IntervalIso),
        Kind::Text => textual(column, options, strict),
        Kind::Array(_) => None,
    }
}

fn textual(column: Type<'_>, options: &ChangeOptions, strict: bool) -> Option<Mapped> {
    let logical = |kind, name: &str, reading| Mapped { schema: Schema::of(kind).named(name, Some(1)), reading };
    let plain = || Mapped { schema: Schema::of(SchemaKind::String), reading: Reading::Text };
    Some(match column.oid {
        oid::TEXT
        | oid::VARCHAR
        | oid::BPCHAR
        | oid::CHAR
        | oid::INET
        | oid::CIDR
        | oid::MACADDR
        | oid::MACADDR8
        | oid::INT4RANGE
        | oid::INT8RANGE
        | oid::NUMRANGE
        | oid::TSRANGE
        | oid::TSTZRANGE
        | oid::DATERANGE => plain(),
        oid::NAME => {
            let reading = if strict { Reading::AlwaysNull } else { Reading::Text };
            Mapped { schema: Schema::of(SchemaKind::String), reading }
        }
        oid::POINT => point(),
        oid::XML => logical(SchemaKind::String, "io.debezium.data.Xml", Reading::Text),
        oid::TSVECTOR => logical(SchemaKind::String, "io.debezium.data.Tsvector", Reading::Text),
        0..16384 => return None,
        _ => match (column.labels, column.name) {
            (Some(labels), _) => {
                let allowed: Vec<&str> = labels.iter().map(|label| &**label).collect();
                let schema = Schema::of(SchemaKind::String).named("io.debezium.data.Enum", Some(1));
                Mapped { schema: schema.parameter("allowed", allowed.join(",")), reading: Reading::Text }
            }
            (None, "citext" | "isbn") => plain(),
            (None, "ltree") => logical(SchemaKind::String, "io.debezium.data.Ltree", Reading::Text),
            (None, "hstore") if options.hstore == HstoreMode::Json => {
                logical(SchemaKind::String, "io.debezium.data.Json", Reading::HstoreJson)
            }
            (None, "hstore") => {
                let (keys, values) = (Schema::of(SchemaKind::String), Schema::of(SchemaKind::String).optional());
                let kind = SchemaKind::Map(keys.shared(), values.shared());
                Mapped { schema: Schema::of(kind), reading: Reading::HstoreMap }
            }
            _ => return None,
        },
    })
}

fn point() -> Mapped {
    let field = |name: &str, schema: Schema| Field { name: name.into(), schema: schema.shared() };
    let fields = vec![
        field("x", Schema::of(SchemaKind::Float64)),
        field("y", Schema::of(SchemaKind::Float64)),
        field("wkb", Schema::of(SchemaKind::Bytes).optional()),
        field("srid", Schema::of(SchemaKind::Int32).optional()),
    ];
    let mut schema = Schema::of(SchemaKind::Struct(fields)).named("io.debezium.data.geometry.Point", Some(1));
    schema.doc = Some("Geometry (POINT)".into());
    Mapped { schema, reading: Reading::Point }
}

fn array(column: Type<'_>, element: u32, options: &ChangeOptions, strict: bool) -> Option<Mapped> {
    let refused = matches!(element, oid::MONEY | oid::NAME | oid::INTERVAL | oid::VARBIT | oid::XML | oid::POINT);
    if refused {
        return None;
    }
    if element == oid::BIT {
        // Declared as one string of bits, and always null (observed).
        return strict.then(|| Mapped { schema: bits(column.modifier).schema, reading: Reading::AlwaysNull });
    }
    let item = mapped(Type { oid: element, element: None, in_array: true, ..column }, options, strict)?;
    let strict_items = column.labels.is_some() || element == oid::TSVECTOR;
    let schema = if strict && strict_items { item.schema } else { item.schema.optional() };
    let reading = Reading::Array(Box::new(ArrayReading { item: item.reading, strict_items }));
    Some(Mapped { schema: Schema::of(SchemaKind::Array(schema.shared())), reading })
}

fn numeric(modifier: i32, options: &ChangeOptions, strict: bool) -> Mapped {
    // numeric(p,s): the upper half is p, the lower 11 bits are s with its sign, which Debezium does not know.
    let declared = (modifier >= 4).then(|| {
        let (precision, scale) = ((modifier - 4) >> 16, (modifier - 4) & 0x7FF);
        let signed = if scale & 0x400 != 0 && !strict { scale - 0x800 } else { scale };
        (precision - signed.min(0), signed.max(0))
    });
    match (options.decimal, declared) {
        (DecimalMode::Double, _) => Mapped { schema: Schema::of(SchemaKind::Float64), reading: Reading::Double },
        (DecimalMode::String, declared) => {
            let scale = declared.map_or(0, |(_, scale)| scale as usize);
            Mapped { schema: Schema::of(SchemaKind::String), reading: Reading::DecimalText { scale } }
        }
        (DecimalMode::Precise, Some((precision, scale))) => Mapped {
            schema: decimal_schema(scale).parameter("connect.decimal.precision", precision.to_string()),
            reading: Reading::Decimal { scale: scale as usize },
        },
        (DecimalMode::Precise, None) => {
            let field = |name: &str, kind| Field { name: name.into(), schema: Schema::of(kind).shared() };
            let fields = vec![field("scale", SchemaKind::Int32), field("value", SchemaKind::Bytes)];
            let mut schema =
                Schema::of(SchemaKind::Struct(fields)).named("io.debezium.data.VariableScaleDecimal", Some(1));
            schema.doc = Some("Variable scaled decimal".into());
            Mapped { schema, reading: Reading::FreeDecimal }
        }
    }
}

fn decimal_schema(scale: i32) -> Schema {
    let schema = Schema::of(SchemaKind::Bytes).named("org.apache.kafka.connect.data.Decimal", Some(1));
    schema.parameter("scale", scale.to_string())
}

fn money(options: &ChangeOptions) -> Mapped {
    match options.decimal {
        DecimalMode::Double => Mapped { schema: Schema::of(SchemaKind::Float64), reading: Reading::MoneyDouble },
        DecimalMode::String => Mapped { schema: Schema::of(SchemaKind::String), reading: Reading::MoneyText },
        DecimalMode::Precise => {
            let digits = options.money_fraction_digits.max(2);
            let reading = Reading::Money { digits: usize::from(digits) };
            Mapped { schema: decimal_schema(i32::from(digits)), reading }
        }
    }
}

fn bits(modifier: i32) -> Mapped {
    let length = if modifier > 0 { modifier } else { i32::MAX };
    let schema = Schema::of(SchemaKind::Bytes).named("io.debezium.data.Bits", Some(1));
    Mapped { schema: schema.parameter("length", length.to_string()), reading: Reading::Bits }
}

fn temporal(column: Type<'_>, mode: TimeMode, strict: bool) -> Mapped {
    let coarse = (0..=3).contains(&column.modifier);
    let exact = !(column.in_array && strict);
    let make = |kind, name: &str, reading| Mapped { schema: Schema::of(kind).named(name, Some(1)), reading };
    match (Kind::of_oid(column.oid), mode) {
        (Kind::Date, TimeMode::Connect) => make(SchemaKind::Int32, "org.apache.kafka.connect.data.Date", Reading::Date),
        (Kind::Date, TimeMode::Isostring) => make(SchemaKind::String, "io.debezium.time.IsoDate", Reading::DateIso),
        (Kind::Date, _) => make(SchemaKind::Int32, "io.debezium.time.Date", Reading::Date),
        (Kind::Time, TimeMode::Connect) => {
            let reading = Reading::Time { unit: Unit::Millis, exact };
            make(SchemaKind::Int32, "org.apache.kafka.connect.data.Time", reading)
        }
        (Kind::Time, TimeMode::Isostring) => {
            make(SchemaKind::String, "io.debezium.time.IsoTime", Reading::TimeIso { exact })
        }
        (Kind::Time, TimeMode::Nanoseconds) => {
            make(SchemaKind::Int64, "io.debezium.time.NanoTime", Reading::Time { unit: Unit::Nanos, exact })
        }
        (Kind::Time, TimeMode::Adaptive) if coarse => {
            make(SchemaKind::Int32, "io.debezium.time.Time", Reading::Time { unit: Unit::Millis, exact })
        }
        (Kind::Time, _) => {
            make(SchemaKind::Int64, "io.debezium.time.MicroTime", Reading::Time { unit: Unit::Micros, exact })
        }
        (_, TimeMode::Connect) => {
            let reading = Reading::Timestamp { unit: Unit::Millis };
            make(SchemaKind::Int64, "org.apache.kafka.connect.data.Timestamp", reading)
        }
        (_, TimeMode::Isostring) => make(SchemaKind::String, "io.debezium.time.IsoTimestamp", Reading::TimestampIso),
        (_, TimeMode::Nanoseconds) => {
            make(SchemaKind::Int64, "io.debezium.time.NanoTimestamp", Reading::Timestamp { unit: Unit::Nanos })
        }
        (_, TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds) if coarse => {
            make(SchemaKind::Int64, "io.debezium.time.Timestamp", Reading::Timestamp { unit: Unit::Millis })
        }
        _ => make(SchemaKind::Int64, "io.debezium.time.MicroTimestamp", Reading::Timestamp { unit: Unit::Micros }),
    }
}

/// What stands in a column that is never null where its value is not known (observed).
pub(super) fn zero(reading: &Reading) -> Datum {
    match reading {
        Reading::Bool | Reading::Bit => Datum::Bool(false),
        Reading::Integer | Reading::Date | Reading::Time { .. } | Reading::Timestamp { .. } | Reading::Interval => {
            Datum::Int(0)
        }
        Reading::Float => Datum::Float(0.0),
        Reading::Double | Reading::MoneyDouble => Datum::Double(0.0),
        Reading::Decimal { .. } | Reading::Money { .. } => Decimal::parse("0").map_or(Datum::Null, Datum::Decimal),
        Reading::FreeDecimal => Datum::Struct(vec![
            (Datum::name("scale"), Datum::Int(0)),
            (Datum::name("value"), Datum::ByteArray(vec![0])),
        ]),
        Reading::DecimalText { .. } | Reading::MoneyText => Datum::Text("0".into()),
        Reading::Bytes(mode) => binary(*mode, Vec::new()),
        Reading::Bits => Datum::Bytes(Vec::new()),
        Reading::ZonedTimestamp { .. } | Reading::TimestampIso => Datum::Text("1970-01-01T00:00:00Z".into()),
        Reading::ZonedTime | Reading::TimeIso { .. } => Datum::Text("00:00:00Z".into()),
        Reading::DateIso => Datum::Text("1970-01-01Z".into()),
        Reading::HstoreMap => Datum::Struct(Vec::new()),
        Reading::Point => point_at(0.0, 0.0),
        Reading::Array(_) => Datum::Array(Vec::new()),
        Reading::Text | Reading::AlwaysNull | Reading::IntervalIso | Reading::HstoreJson => Datum::Text(String::new()),
    }
}

/// What stands for a TOAST value that is not in the log; `None` where the type has no room for it.
pub(super) fn placeholder(reading: &Reading, schema: &Schema, text: &str) -> Option<Datum> {
    let uuid = schema.name.as_deref() == Some("io.debezium.data.Uuid");
    match reading {
        Reading::Text if !uuid => Some(Datum::Text(text.into())),
        Reading::HstoreJson | Reading::DecimalText { .. } | Reading::AlwaysNull => Some(Datum::Text(text.into())),
        Reading::HstoreMap => Some(Datum::Struct(vec![(Datum::name(text), Datum::Text(text.into()))])),
        Reading::Bytes(mode) => Some(binary(*mode, text.into())),
        Reading::Array(array) => match (&array.item, &schema.kind) {
            (Reading::Integer, _) => Some(Datum::Array(text.bytes().map(|byte| Datum::Int(i64::from(byte))).collect())),
            // A uuid made of the placeholder's MD5.
            (Reading::Text, SchemaKind::Array(item)) if item.name.as_deref() == Some("io.debezium.data.Uuid") => (text
                == "__debezium_unavailable_value")
                .then(|| Datum::Array(vec![Datum::Text("b68a35a7-17ad-35b3-af2a-ae46edb4545a".into())])),
            (Reading::Text, _) => Some(Datum::Array(vec![Datum::Text(text.into())])),
            _ => None,
        },
        _ => None,
    }
}
