//! A column's text → the value that its schema promises.
//!
//! Not here: which reading a column has (column), null and defaults (table).

use super::BinaryMode;
use crate::encode::array::{self, Item};
use crate::encode::decimal::Decimal;
use crate::encode::plain::hex;
use crate::encode::strict::{Datum, bits, interval_us, java_date, zoned_time, zoned_timestamp};
use crate::encode::time;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

const DAY_US: i64 = 86_400_000_000;

/// How a text is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Text,
    /// Debezium writes null whatever it holds.
    AlwaysNull,
    Bool,
    Integer,
    Float,
    Double,
    Decimal {
        scale: usize,
    },
    FreeDecimal,
    /// The server's digits, with at least this scale.
    DecimalText {
        scale: usize,
    },
    Money {
        digits: usize,
    },
    MoneyText,
    MoneyDouble,
    Bytes(BinaryMode),
    Bit,
    Bits,
    Date,
    DateIso,
    /// `exact`: as the server has it; Debezium reads times in arrays to the millisecond only.
    Time {
        unit: Unit,
        exact: bool,
    },
    TimeIso {
        exact: bool,
    },
    Timestamp {
        unit: Unit,
    },
    TimestampIso,
    ZonedTimestamp {
        modifier: i32,
    },
    ZonedTime,
    Interval,
    IntervalIso,
    HstoreJson,
    HstoreMap,
    Point,
    Array(Box<ArrayReading>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ArrayReading {
    pub item: Reading,
    /// Debezium declares the items of some arrays to be never null; one null makes the whole array null there.
    pub strict_items: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    fn of_us(self, us: i64) -> Option<i64> {
        match self {
            Unit::Millis => Some(us.div_euclid(1000)),
            Unit::Micros => Some(us),
            Unit::Nanos => us.checked_mul(1000),
        }
    }
}

/// Reads one value. `strict`: where Debezium loses a value, it is lost here as well; otherwise that is an error.
pub(super) fn read(reading: &Reading, text: &str, strict: bool) -> Result<Datum, String> {
    let unfit = || "its text is not that of its type".to_owned();
    match reading {
        Reading::Text => Ok(Datum::Text(text.into())),
        Reading::AlwaysNull => Ok(Datum::Null),
        Reading::Bool => Ok(Datum::Bool(text == "t")),
        Reading::Integer => text.parse().map(Datum::Int).map_err(|_| unfit()),
        Reading::Float => text.parse().map(Datum::Float).map_err(|_| unfit()),
        Reading::Double => text.parse().map(Datum::Double).map_err(|_| unfit()),
        Reading::Decimal { .. } | Reading::FreeDecimal | Reading::DecimalText { .. } => decimal(reading, text, strict),
        Reading::Money { .. } | Reading::MoneyText | Reading::MoneyDouble => money(reading, text).ok_or_else(unfit),
        Reading::Bytes(mode) => hex(text).map(|bytes| binary(*mode, bytes)).map_err(|error| error.to_string()),
        Reading::Bit => Ok(Datum::Bool(text == "1")),
        Reading::Bits => Ok(bits(text)),
        Reading::Date => match text {
            "infinity" => Ok(Datum::Int(2_146_033_979)),
            "-infinity" => Ok(Datum::Int(-2_147_472_691)),
            _ => time::date_days(text).map(Datum::Int).ok_or_else(unfit),
        },
        Reading::DateIso if text.ends_with("infinity") => Err("an infinite date has no ISO form".into()),
        Reading::DateIso => {
            time::date_days(text).map(|days| Datum::Text(format!("{}Z", java_date(days)))).ok_or_else(unfit)
        }
        Reading::Time { unit, exact } => {
            let us = time_us(text, *exact).ok_or_else(unfit)?;
            unit.of_us(us).map(Datum::Int).ok_or_else(unfit)
        }
        Reading::TimeIso { exact } => {
            let us = time_us(text, *exact).ok_or_else(unfit)?;
            if us == DAY_US && !strict {
                return Err("24:00:00 has no ISO form".into());
            }
            Ok(Datum::Text(format!("{}Z", iso_clock(us % DAY_US))))
        }
        Reading::Timestamp { unit } => timestamp(text, *unit, strict),
        Reading::TimestampIso if text.ends_with("infinity") => {
            // What the end of Java's calendar prints as, in a time zone an hour ahead.
            let end = if text.starts_with('-') { "-292275055-05-16T23:00:00Z" } else { "+292278994-08-16T23:00:00Z" };
            if strict { Ok(Datum::Text(end.into())) } else { Err("an infinite timestamp has no ISO form".into()) }
        }
        Reading::TimestampIso => {
            let us = time::timestamp_us(text).ok_or_else(unfit)?;
            let (day, clock) = (java_date(us.div_euclid(DAY_US)), iso_clock(us.rem_euclid(DAY_US)));
            Ok(Datum::Text(format!("{day}T{clock}Z")))
        }
        Reading::ZonedTimestamp { modifier } => zoned_timestamp(text, *modifier).map(Datum::Text).ok_or_else(unfit),
        Reading::ZonedTime => zoned_time(text).map(Datum::Text).ok_or_else(unfit),
        Reading::Interval => match interval_us(text) {
            Some(i64::MAX | i64::MIN) if !strict => Err("it is longer than 64 bits of microseconds".into()),
            us => us.map(Datum::Int).ok_or_else(unfit),
        },
        Reading::IntervalIso => interval_iso(text).map(Datum::Text).ok_or_else(unfit),
        Reading::HstoreJson | Reading::HstoreMap => {
            let entries = hstore(text).ok_or_else(unfit)?;
            if *reading == Reading::HstoreMap {
                return Ok(entries);
            }
            let mut out = Vec::new();
            crate::encode::strict::write_json(&mut out, &entries);
            String::from_utf8(out).map(Datum::Text).map_err(|_| unfit())
        }
        Reading::Point => {
            let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
            let (x, y) = inner.and_then(|inner| inner.split_once(',')).ok_or_else(unfit)?;
            Ok(point_at(x.parse().map_err(|_| unfit())?, y.parse().map_err(|_| unfit())?))
        }
        Reading::Array(array) => items(array, text, strict),
    }
}

/// With its well-known binary form: little endian, a point, both numbers.
pub(super) fn point_at(x: f64, y: f64) -> Datum {
    let mut wkb = vec![1, 1, 0, 0, 0];
    wkb.extend_from_slice(&x.to_le_bytes());
    wkb.extend_from_slice(&y.to_le_bytes());
    Datum::Struct(vec![
        (Datum::name("x"), Datum::Double(x)),
        (Datum::name("y"), Datum::Double(y)),
        (Datum::name("wkb"), Datum::ByteArray(wkb)),
        (Datum::name("srid"), Datum::Null),
    ])
}

fn items(array: &ArrayReading, text: &str, strict: bool) -> Result<Datum, String> {
    let items = array::parse(text).ok_or("its text is not that of an array")?;
    if strict && array.strict_items && items.contains(&Item::Null) {
        return Ok(Datum::Null);
    }
    let item = |item: &Item| match item {
        Item::Null => Ok(Datum::Null),
        Item::Text(text) => read(&array.item, text, strict),
        Item::Nested(_) => Err("an array of several dimensions has no schema in Connect".to_owned()),
    };
    items.iter().map(item).collect::<Result<_, _>>().map(Datum::Array)
}

fn decimal(reading: &Reading, text: &str, strict: bool) -> Result<Datum, String> {
    let decimal = Decimal::parse(text);
    match (reading, decimal) {
        (Reading::DecimalText { .. }, None) => Ok(Datum::Text(match text {
            "NaN" => "NAN".into(),
            "Infinity" => "POSITIVE_INFINITY".into(),
            "-Infinity" => "NEGATIVE_INFINITY".into(),
            _ => return Err("its text is not a number".into()),
        })),
        (_, None) if strict => Ok(Datum::Null),
        (_, None) => Err(format!("{text} is no decimal: use the decimal mode string or double")),
        (Reading::DecimalText { scale }, Some(decimal)) => Ok(Datum::Text(padded(text, decimal.scale, *scale))),
        (Reading::Decimal { scale }, Some(decimal)) => Ok(Datum::Decimal(decimal.with_scale(*scale))),
        (_, Some(decimal)) => {
            let decimal = decimal.shortened();
            Ok(Datum::Struct(vec![
                (Datum::name("scale"), Datum::Int(decimal.scale as i64)),
                (Datum::name("value"), Datum::ByteArray(decimal.unscaled())),
            ]))
        }
    }
}

/// Zeros after the point, up to this scale.
fn padded(text: &str, has: usize, scale: usize) -> String {
    let point = if has == 0 && scale > 0 { "." } else { "" };
    format!("{text}{point}{}", "0".repeat(scale.saturating_sub(has)))
}

fn money(reading: &Reading, text: &str) -> Option<Datum> {
    let plain: String = text.chars().filter(|c| matches!(c, '0'..='9' | '.' | '-')).collect();
    let money = Decimal::parse(&plain)?.with_scale(2);
    Some(match reading {
        Reading::Money { digits } => Datum::Decimal(money.with_scale(*digits)),
        Reading::MoneyDouble => Datum::Double(plain.parse().ok()?),
        _ => Datum::Text(padded(&plain, plain.split_once('.').map_or(0, |(_, fraction)| fraction.len()), 2)),
    })
}

/// Bytes in the column's representation.
pub(super) fn binary(mode: BinaryMode, bytes: Vec<u8>) -> Datum {
    match mode {
        BinaryMode::Bytes => Datum::Bytes(bytes),
        BinaryMode::Base64 => Datum::Text(STANDARD.encode(bytes)),
        BinaryMode::Base64UrlSafe => Datum::Text(URL_SAFE.encode(bytes)),
        BinaryMode::Hex => Datum::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

fn time_us(text: &str, exact: bool) -> Option<i64> {
    let us = time::time_us(text)?;
    Some(if exact { us } else { us / 1000 * 1000 })
}

/// `10:00:00.5`: no zeros at the end of the fraction.
fn iso_clock(us: i64) -> String {
    if us % 1_000_000 == 0 {
        return time::clock_text(us, 0);
    }
    time::clock_text(us, 6).trim_end_matches('0').to_owned()
}

/// Infinity is a number too, one for each unit (observed).
fn timestamp(text: &str, unit: Unit, strict: bool) -> Result<Datum, String> {
    let number = match (text, unit) {
        ("infinity", Unit::Millis) => 9_223_372_036_825_200_000,
        ("-infinity", Unit::Millis) => -9_223_372_036_832_400_000,
        ("infinity", _) => i64::MAX,
        ("-infinity", _) => i64::MIN,
        _ => {
            let us = time::timestamp_us(text).ok_or("it is beyond 64 bits of microseconds")?;
            match unit.of_us(us) {
                Some(number) => number,
                None if strict => return Ok(Datum::Null),
                None => return Err("it is beyond 64 bits of nanoseconds".into()),
            }
        }
    };
    Ok(Datum::Int(number))
}

/// `P1Y2M3DT4H5M6.78S`: every part, also those that are 0.
fn interval_iso(text: &str) -> Option<String> {
    let (mut years, mut months, mut days, mut clock) = (0i64, 0i64, 0i64, (0i64, 0i64, 0i64));
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word.contains(':') {
            let negative = word.starts_with('-');
            let mut parts = word.trim_start_matches(['-', '+']).splitn(3, ':');
            let hours: i64 = parts.next()?.parse().ok()?;
            let rest = time::time_us(&format!("00:{}:{}", parts.next()?, parts.next().unwrap_or("0")))?;
            let sign = if negative { -1 } else { 1 };
            clock = (sign * hours, sign * (rest / 60_000_000), sign * (rest % 60_000_000));
            continue;
        }
        let count: i64 = word.parse().ok()?;
        match words.next()?.trim_end_matches('s') {
            "year" => years = count,
            "mon" => months = count,
            "day" => days = count,
            _ => return None,
        }
    }
    let (sign, us) = (if clock.2 < 0 { "-" } else { "" }, clock.2.abs());
    let fraction = format!("{:06}", us % 1_000_000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = us / 1_000_000;
    Some(format!("P{years}Y{months}M{days}DT{}H{}M{sign}{seconds}{point}{fraction}S", clock.0, clock.1))
}

/// `"a"=>"1", "b"=>NULL`, as the server writes it.
fn hstore(text: &str) -> Option<Datum> {
    let mut entries = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = hstore_text(rest.strip_prefix('"')?)?;
        let after = after.strip_prefix("=>")?;
        let (value, after) = match after.strip_prefix("NULL") {
            Some(after) => (Datum::Null, after),
            None => hstore_text(after.strip_prefix('"')?).map(|(value, after)| (Datum::Text(value), after))?,
        };
        entries.push((Datum::name(&key), value));
        rest = match after.strip_prefix(", ") {
            Some(after) => after,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(Datum::Struct(entries))
}

fn hstore_text(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reading: &Reading, from: &str) -> String {
        match read(reading, from, false) {
            Ok(Datum::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn texts_in_iso_form_are_as_java_prints_them() {
        assert_eq!(text(&Reading::TimestampIso, "2024-01-01 10:00:00"), "2024-01-01T10:00:00Z");
        assert_eq!(text(&Reading::TimestampIso, "12345-06-07 08:09:10.123"), "+12345-06-07T08:09:10.123Z");
        assert_eq!(text(&Reading::TimeIso { exact: true }, "12:34:56.789012"), "12:34:56.789012Z");
        assert_eq!(text(&Reading::DateIso, "0044-03-15 BC"), "-0043-03-15Z");
        assert_eq!(text(&Reading::IntervalIso, "1 year 2 mons 3 days 04:05:06.78"), "P1Y2M3DT4H5M6.78S");
        assert_eq!(text(&Reading::IntervalIso, "1 day"), "P0Y0M1DT0H0M0S");
        assert_eq!(text(&Reading::HstoreJson, r#""a"=>"1", "q\""=>NULL"#), r#"{"a":"1","q\"":null}"#);
    }

    #[test]
    fn what_debezium_loses_is_an_error_unless_its_losses_are_wanted() {
        let array = |item| Reading::Array(Box::new(ArrayReading { item, strict_items: true }));
        for (reading, value) in [
            (Reading::FreeDecimal, "NaN"),
            (Reading::Timestamp { unit: Unit::Nanos }, "9999-12-31 00:00:00"),
            (Reading::Interval, "178000000 years"),
        ] {
            assert!(read(&reading, value, false).is_err(), "{value}");
            assert!(read(&reading, value, true).is_ok(), "{value}");
        }
        let texts = [Datum::Text("sad".into()), Datum::Null];
        assert_eq!(read(&array(Reading::Text), "{sad,NULL}", false), Ok(Datum::Array(texts.to_vec())));
        assert_eq!(read(&array(Reading::Text), "{sad,NULL}", true), Ok(Datum::Null));
        assert!(read(&array(Reading::Integer), "{{1}}", true).is_err());
    }
}
