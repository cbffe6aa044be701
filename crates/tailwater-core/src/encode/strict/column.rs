//! A column's text → a value of Connect, by the type mapping of Debezium's PostgreSQL connector.

use super::Datum;
use crate::encode::array::{self, Item};
use crate::encode::decimal::Decimal;
use crate::encode::kind::Kind;
use crate::encode::plain::{ValueError, hex, utf8};
use crate::encode::time;
use crate::pgoutput::oid;
use crate::{Column, Value};

/// What Debezium writes for a TOAST value that is not in the log.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// µs in a month of 365.25 / 12 days.
const MONTH_US: i64 = 2_629_800_000_000;

/// The value as Debezium reads it. NULL in a column with a literal default *is* the default: its router reads structs
/// with their defaults (observed with 3.7.0).
pub fn datum(column: &Column, value: &Value) -> Result<Datum, ValueError> {
    match value {
        Value::Unchanged => Ok(if Kind::of(column) == Kind::Bytea {
            Datum::Bytes(UNAVAILABLE.into())
        } else {
            Datum::Text(UNAVAILABLE.into())
        }),
        Value::Null => match column.catalog.as_ref().and_then(|catalog| catalog.default.as_deref()) {
            Some(default) => default_datum(column, default),
            None => Ok(Datum::Null),
        },
        _ => of_text(column, utf8(value)?.unwrap_or_default()),
    }
}

/// The value without regard to defaults, as `Struct.getString` and its like read it.
pub fn bare(column: &Column, value: &Value) -> Result<Datum, ValueError> {
    match value {
        Value::Null => Ok(Datum::Null),
        _ => datum(column, value),
    }
}

fn of_text(column: &Column, text: &str) -> Result<Datum, ValueError> {
    let unfit = || ValueError::Unfit(format!("{text:?} is not the text of its type"));
    let integer = |number: Option<i64>| number.map(Datum::Int).ok_or_else(unfit);
    let modifier = column.type_modifier;
    match Kind::of(column) {
        Kind::Bool => Ok(Datum::Bool(text == "t")),
        Kind::Int2 | Kind::Int4 | Kind::Int8 => integer(text.parse().ok()),
        Kind::Float4 => text.parse().map(Datum::Float).map_err(|_| unfit()),
        Kind::Float8 => text.parse().map(Datum::Double).map_err(|_| unfit()),
        Kind::Numeric => Ok(numeric(text, modifier)),
        Kind::Money => {
            let plain: String = text.chars().filter(|c| matches!(c, '0'..='9' | '.' | '-')).collect();
            Decimal::parse(&plain).map(|money| Datum::Decimal(money.with_scale(2))).ok_or_else(unfit)
        }
        Kind::Bytea => hex(text).map(Datum::Bytes),
        Kind::Bit => Ok(bits_of(text, column)),
        Kind::Date => match text {
            "infinity" => Ok(Datum::Int(2_146_033_979)),
            "-infinity" => Ok(Datum::Int(-2_147_472_691)),
            _ => integer(time::date_days(text)),
        },
        Kind::Time => integer(time::time_us(text).map(|us| if coarse(modifier) { us / 1000 } else { us })),
        Kind::Timestamp => match (text, coarse(modifier)) {
            ("infinity", false) => Ok(Datum::Int(i64::MAX)),
            ("-infinity", false) => Ok(Datum::Int(i64::MIN)),
            ("infinity", true) => Ok(Datum::Int(9_223_372_036_825_200_000)),
            ("-infinity", true) => Ok(Datum::Int(-9_223_372_036_832_400_000)),
            (_, coarse) => integer(time::timestamp_us(text).map(|us| if coarse { us.div_euclid(1000) } else { us })),
        },
        Kind::TimestampTz => Ok(Datum::Text(zoned_timestamp(text, modifier).ok_or_else(unfit)?)),
        Kind::TimeTz => Ok(Datum::Text(zoned_time(text).ok_or_else(unfit)?)),
        Kind::Interval => integer(interval_us(text)),
        Kind::Array(array) => items(column, array, text),
        Kind::Uuid | Kind::Json => Ok(Datum::Text(text.into())),
        Kind::Text if is_covered(column.type_oid) => Ok(Datum::Text(text.into())),
        Kind::Text => Err(ValueError::Unfit("its type is not covered by strict compatibility".into())),
    }
}

/// Types whose text Debezium passes on. Types made by users have numbers from 16384: enums and text domains do.
fn is_covered(type_oid: u32) -> bool {
    type_oid >= 16384
        || matches!(
            type_oid,
            oid::TEXT
                | oid::VARCHAR
                | oid::BPCHAR
                | oid::CHAR
                | oid::NAME
                | oid::XML
                | oid::INET
                | oid::CIDR
                | oid::MACADDR
                | oid::MACADDR8
                | oid::TSVECTOR
                | oid::INT4RANGE
                | oid::INT8RANGE
                | oid::NUMRANGE
                | oid::TSRANGE
                | oid::TSTZRANGE
                | oid::DATERANGE
        )
}

/// One dimension of a type whose items Debezium reads without loss or surprise.
fn items(column: &Column, array: u32, text: &str) -> Result<Datum, ValueError> {
    let refuse = || ValueError::Unfit("its array type is not covered by strict compatibility".into());
    let type_oid = array::item_oid(array).ok_or_else(refuse)?;
    if matches!(
        Kind::of_oid(type_oid),
        Kind::Time | Kind::Timestamp | Kind::Money | Kind::Interval | Kind::Bit | Kind::Bytea | Kind::Array(_)
    ) || matches!(type_oid, oid::NAME | oid::XML)
    {
        return Err(refuse());
    }
    let column = Column { type_oid, catalog: None, ..column.clone() };
    let item = |item: &Item| match item {
        Item::Null => Ok(Datum::Null),
        Item::Text(text) => of_text(&column, text),
        Item::Nested(_) => Err(refuse()),
    };
    let items = array::parse(text).ok_or_else(refuse)?;
    items.iter().map(item).collect::<Result<_, _>>().map(Datum::Array)
}

/// `(p,s)` has a fixed scale, else it is a struct; NaN is null (with a warning, there).
fn numeric(text: &str, modifier: i32) -> Datum {
    let Some(decimal) = Decimal::parse(text) else { return Datum::Null };
    if modifier >= 4 {
        return Datum::Decimal(decimal.with_scale(((modifier - 4) & 0x7FF) as usize));
    }
    let decimal = decimal.shortened();
    Datum::Struct(vec![
        (Datum::name("scale"), Datum::Int(decimal.scale as i64)),
        (Datum::name("value"), Datum::ByteArray(decimal.unscaled())),
    ])
}

/// `bit(1)` is a boolean; longer ones are bytes, the lowest first, without zero bytes at the end.
fn bits_of(text: &str, column: &Column) -> Datum {
    if column.type_oid == oid::BIT && column.type_modifier == 1 {
        return Datum::Bool(text == "1");
    }
    bits(text)
}

/// The lowest byte first, without zero bytes at the end.
pub(crate) fn bits(text: &str) -> Datum {
    let mut bytes = vec![0u8; text.len().div_ceil(8)];
    for (place, bit) in text.bytes().rev().enumerate() {
        if bit == b'1'
            && let Some(byte) = bytes.get_mut(place / 8)
        {
            *byte |= 1 << (place % 8);
        }
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Datum::Bytes(bytes)
}

/// Up to 3 digits of a second: Debezium counts milliseconds.
fn coarse(modifier: i32) -> bool {
    (0..=3).contains(&modifier)
}

/// `ZonedTimestamp`: UTC, as many digits of a second as the column has.
pub(crate) fn zoned_timestamp(text: &str, modifier: i32) -> Option<String> {
    if text.ends_with("infinity") {
        return Some(text.into());
    }
    let us = time::timestamp_us(text)?;
    let (days, of_day) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
    let digits = if modifier < 0 { 6 } else { (modifier as usize).min(6) };
    Some(format!("{}T{}Z", java_date(days), time::clock_text(of_day, digits)))
}

/// Java's ISO date: years beyond 9999 have a plus sign.
pub(crate) fn java_date(days: i64) -> String {
    let text = time::date_text(days);
    if text.len() > 10 && !text.starts_with('-') { format!("+{text}") } else { text }
}

/// `ZonedTime`: UTC, without zeros at the end of the fraction.
pub(crate) fn zoned_time(text: &str) -> Option<String> {
    let (clock, offset) = time::split_zone(text)?;
    let us = match (time::time_us(clock)?, offset) {
        // The end of the day stays what it is.
        (us @ 86_400_000_000, 0) => us,
        (us, offset) => (us - offset * 1_000_000).rem_euclid(86_400_000_000),
    };
    let text = time::clock_text(us, 6);
    Some(format!("{}Z", text.trim_end_matches('0').trim_end_matches('.')).replace(":Z", ":00Z"))
}

/// `MicroDuration` of an interval in IntervalStyle `postgres`: `1 year 2 mons -3 days +04:05:06.789`.
pub(crate) fn interval_us(text: &str) -> Option<i64> {
    let mut us: i64 = 0;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(clock) => (true, clock),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let clock = clock_us(clock)?;
            us = us.saturating_add(if negative { -clock } else { clock });
            continue;
        }
        let count: i64 = word.parse().ok()?;
        let unit = match words.next()?.trim_end_matches('s') {
            "year" => 12 * MONTH_US,
            "mon" => MONTH_US,
            "day" => 86_400_000_000,
            _ => return None,
        };
        us = us.saturating_add(count.saturating_mul(unit));
    }
    Some(us)
}

/// As [`time::time_us`], with any number of hours.
fn clock_us(clock: &str) -> Option<i64> {
    let (hours, rest) = clock.split_once(':')?;
    let hours: i64 = hours.parse().ok()?;
    hours.checked_mul(3_600_000_000)?.checked_add(time::time_us(&format!("00:{rest}"))?)
}

/// A default expression as `pg_get_expr` prints it: literals have a value; the default of a uuid by function is the zero
/// uuid (observed); any other expression has none.
fn default_datum(column: &Column, default: &str) -> Result<Datum, ValueError> {
    let literal = match default.strip_prefix('\'') {
        Some(rest) => {
            let Some((text, cast)) = quoted(rest) else { return Ok(Datum::Null) };
            if !(cast.is_empty() || cast.starts_with("::")) {
                return Ok(Datum::Null);
            }
            text
        }
        None => {
            let bare = default.split("::").next().unwrap_or_default();
            let bare = bare.strip_prefix('(').and_then(|b| b.strip_suffix(')')).unwrap_or(bare);
            match bare {
                "true" => "t".into(),
                "false" => "f".into(),
                _ if bare.parse::<f64>().is_ok() && !bare.starts_with(char::is_alphabetic) => bare.to_owned(),
                _ if Kind::of(column) == Kind::Uuid && bare.ends_with("()") => {
                    return Ok(Datum::Text("00000000-0000-0000-0000-000000000000".into()));
                }
                _ => return Ok(Datum::Null),
            }
        }
    };
    // A free numeric has a struct for a type, and structs have no defaults there.
    if Kind::of(column) == Kind::Numeric && column.type_modifier < 4 {
        return Ok(Datum::Null);
    }
    of_text(column, &literal)
}

/// `it''s'::text` → (`it's`, `::text`).
pub(crate) fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut from = rest;
    loop {
        let (part, after) = from.split_once('\'')?;
        text.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                text.push('\'');
                from = after;
            }
            None => return Some((text, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::ColumnCatalog;
    use bytes::Bytes;

    fn column(type_oid: u32, type_modifier: i32, default: Option<&str>) -> Column {
        let catalog = ColumnCatalog { default: default.map(Into::into), ..ColumnCatalog::default() };
        Column { name: "c".into(), type_oid, type_modifier, key: false, catalog: Some(catalog) }
    }

    fn read(type_oid: u32, type_modifier: i32, text: &str) -> Datum {
        datum(&column(type_oid, type_modifier, None), &Value::Text(Bytes::copy_from_slice(text.as_bytes()))).unwrap()
    }

    /// Recorded from Debezium 3.7.0.
    #[test]
    fn types_are_mapped_as_observed() {
        let text = |text: &str| Datum::Text(text.into());
        for (type_oid, modifier, value, expected) in [
            (oid::BOOL, -1, "t", Datum::Bool(true)),
            (oid::INT8, -1, "-9", Datum::Int(-9)),
            (oid::FLOAT8, -1, "NaN", Datum::Double(f64::NAN)),
            (oid::BYTEA, -1, "\\x00ff", Datum::Bytes(vec![0, 255])),
            (oid::DATE, -1, "2024-02-29", Datum::Int(19782)),
            (oid::DATE, -1, "-infinity", Datum::Int(-2_147_472_691)),
            (oid::TIME, -1, "12:34:56.789012", Datum::Int(45_296_789_012)),
            (oid::TIME, 3, "12:34:56.789", Datum::Int(45_296_789)),
            (oid::TIMESTAMP, -1, "1582-10-04 04:05:06.5", Datum::Int(-12_220_228_493_500_000)),
            (oid::TIMESTAMP, 0, "2024-02-29 12:34:57", Datum::Int(1_709_210_097_000)),
            (oid::TIMESTAMP, 3, "infinity", Datum::Int(9_223_372_036_825_200_000)),
            (oid::TIMESTAMPTZ, -1, "2024-02-29 10:34:56.789012+00", text("2024-02-29T10:34:56.789012Z")),
            (oid::TIMESTAMPTZ, -1, "2024-02-29 11:00:00+00", text("2024-02-29T11:00:00.000000Z")),
            (oid::TIMESTAMPTZ, 3, "1970-01-01 05:30:00+00", text("1970-01-01T05:30:00.000Z")),
            (oid::TIMESTAMPTZ, -1, "infinity", text("infinity")),
            (oid::TIMETZ, -1, "23:59:59.999999-05:30", text("05:29:59.999999Z")),
            (oid::TIMETZ, 3, "00:00:00+00", text("00:00:00Z")),
            (oid::TIMETZ, 3, "24:00:00+00", text("24:00:00Z")),
            (oid::TIMESTAMPTZ, 0, "12345-06-07 08:09:10+00", text("+12345-06-07T08:09:10Z")),
            (oid::INTERVAL, -1, "1 year 2 mons 3 days 04:05:06.789012", Datum::Int(37_091_106_789_012)),
            (oid::INTERVAL, -1, "-1 years -2 mons +3 days -04:05:06.7", Datum::Int(-36_572_706_700_000)),
            (oid::INTERVAL, -1, "100 days 25:00:00", Datum::Int(8_730_000_000_000)),
            (oid::INTERVAL, -1, "178000000 years", Datum::Int(i64::MAX)),
            (oid::BIT, 1, "1", Datum::Bool(true)),
            (oid::BIT, 2, "10", Datum::Bytes(vec![2])),
            (oid::VARBIT, 10, "1111111111", Datum::Bytes(vec![0xFF, 3])),
            (oid::BIT, 20, "10000000000000000000", Datum::Bytes(vec![0, 0, 8])),
            (oid::NUMERIC, 655_366, "12.30", Datum::Decimal(Decimal::parse("12.30").unwrap())),
            (oid::NUMERIC, -1, "NaN", Datum::Null),
            (oid::MONEY, -1, "-$1,234.50", Datum::Decimal(Decimal::parse("-1234.50").unwrap())),
            (16_999, -1, "open", text("open")),
        ] {
            let got = read(type_oid, modifier, value);
            assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{value}");
        }
        let free = read(oid::NUMERIC, -1, "12.3450");
        let expected =
            [(Datum::name("scale"), Datum::Int(3)), (Datum::name("value"), Datum::ByteArray(vec![0x30, 0x39]))];
        assert_eq!(free, Datum::Struct(expected.to_vec()));
    }

    #[test]
    fn a_null_is_the_literal_default_of_its_column() {
        let null = |type_oid, default| datum(&column(type_oid, -1, Some(default)), &Value::Null).unwrap();
        assert_eq!(null(oid::JSONB, "'{\"d\": 1}'::jsonb"), Datum::Text("{\"d\": 1}".into()));
        assert_eq!(null(oid::TEXT, "'it''s'::text"), Datum::Text("it's".into()));
        assert_eq!(null(oid::INT4, "5"), Datum::Int(5));
        assert_eq!(null(oid::INT4, "'-5'::integer"), Datum::Int(-5));
        assert_eq!(null(oid::BOOL, "true"), Datum::Bool(true));
        assert_eq!(null(oid::INT8, "(1 + 2)"), Datum::Null);
        assert_eq!(null(oid::TIMESTAMP, "now()"), Datum::Null);
        assert_eq!(null(oid::TEXT, "NULL::character varying"), Datum::Null);
        assert_eq!(bare(&column(oid::TEXT, -1, Some("'x'::text")), &Value::Null).unwrap(), Datum::Null);
    }

    /// Recorded from Debezium 3.7.0.
    #[test]
    fn arrays_of_one_dimension_are_arrays() {
        let array = |type_oid, modifier, text| match read(type_oid, modifier, text) {
            Datum::Array(items) => items,
            other => panic!("{other:?}"),
        };
        assert_eq!(array(oid::INT4_ARRAY, -1, "[2:4]={1,NULL,3}"), [Datum::Int(1), Datum::Null, Datum::Int(3)]);
        assert_eq!(array(oid::JSONB_ARRAY, -1, r#"{"{\"a\": 1}"}"#), [Datum::Text("{\"a\": 1}".into())]);
        assert_eq!(array(oid::FLOAT8_ARRAY, -1, "{0.1}"), [Datum::Double(0.1)]);
    }

    #[test]
    fn a_type_that_is_not_covered_is_refused() {
        for (type_oid, text) in [
            (oid::INT4_ARRAY, "{{1}}"),
            (1187, "{1 day}"),
            (oid::TIMESTAMP_ARRAY, "{infinity}"),
            (oid::POINT, "(1,2)"),
            (oid::TSQUERY, "a"),
        ] {
            let value = Value::Text(Bytes::copy_from_slice(text.as_bytes()));
            assert!(datum(&column(type_oid, -1, None), &value).is_err(), "{text}");
        }
    }
}
