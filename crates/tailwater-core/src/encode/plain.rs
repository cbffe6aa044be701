//! Tailwater's own dialect: values as a person would write them by hand, nothing lost, nothing parsed without need.
//!
//! JSON is much what `to_jsonb` of PostgreSQL gives: numbers keep every digit, dates are ISO 8601, arrays are arrays, json and
//! jsonb are spliced as the server wrote them, what has no JSON number (NaN, infinity) is a string; but bytea is base64, and
//! a composite stays text.

use super::array::{self, Item};
use super::json::{Escapes, is_number, write_string};
use super::kind::Kind;
use crate::{HeaderValue, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use std::borrow::Cow;

/// Why a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("its value is not in the log (an unchanged TOAST value)")]
    Unchanged,
    #[error("its text is not UTF-8; the database's encoding must be UTF8")]
    NotUtf8,
    #[error("its value came in binary form, which is not asked for")]
    BinaryForm,
    #[error("its value is not hex text; the session must have bytea_output = hex")]
    NotHex,
    #[error("{0}")]
    Unfit(String),
}

/// The text of a value; `None` for NULL.
pub fn text(value: &Value) -> Result<Option<&Bytes>, ValueError> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        Value::Unchanged => Err(ValueError::Unchanged),
        Value::Binary(_) => Err(ValueError::BinaryForm),
    }
}

/// The text of a value as UTF-8; `None` for NULL.
pub fn utf8(value: &Value) -> Result<Option<&str>, ValueError> {
    text(value)?.map(|text| std::str::from_utf8(text).map_err(|_| ValueError::NotUtf8)).transpose()
}

/// Appends the value as JSON.
pub fn write_json(out: &mut Vec<u8>, kind: Kind, value: &Value) -> Result<(), ValueError> {
    let Some(text) = utf8(value)? else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    write_text(out, kind, text)
}

fn write_text(out: &mut Vec<u8>, kind: Kind, text: &str) -> Result<(), ValueError> {
    match kind {
        Kind::Json => out.extend_from_slice(text.as_bytes()),
        Kind::Bool => out.extend_from_slice(if text == "t" { b"true" } else { b"false" }),
        Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Float4 | Kind::Float8 | Kind::Numeric
            if is_number(text.as_bytes()) =>
        {
            out.extend_from_slice(text.as_bytes());
        }
        Kind::Bytea => write_base64(out, &hex(text)?),
        Kind::Timestamp | Kind::TimestampTz => write_string(out, &iso_8601(text), Escapes::Needed),
        Kind::Array(oid) => match array::parse(text) {
            Some(items) => return write_items(out, array::item_kind(oid), &items),
            None => write_string(out, text, Escapes::Needed),
        },
        _ => write_string(out, text, Escapes::Needed),
    }
    Ok(())
}

fn write_items(out: &mut Vec<u8>, kind: Kind, items: &[Item]) -> Result<(), ValueError> {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match item {
            Item::Null => out.extend_from_slice(b"null"),
            Item::Text(text) => write_text(out, kind, text)?,
            Item::Nested(items) => write_items(out, kind, items)?,
        }
    }
    out.push(b']');
    Ok(())
}

/// Appends the bytes as a JSON string of standard base64.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

/// The value as a header, typed as far as brokers have types. numeric stays text: a float would lose digits.
pub fn header(kind: Kind, value: &Value) -> Result<HeaderValue, ValueError> {
    let Some(bytes) = text(value)? else { return Ok(HeaderValue::Null) };
    let text = std::str::from_utf8(bytes).map_err(|_| ValueError::NotUtf8)?;
    let typed = match kind {
        Kind::Bool => Some(HeaderValue::Bool(text == "t")),
        Kind::Int2 | Kind::Int4 | Kind::Int8 => text.parse().ok().map(HeaderValue::Int),
        Kind::Float4 | Kind::Float8 if is_number(text.as_bytes()) => text.parse().ok().map(HeaderValue::Float),
        Kind::Bytea => Some(HeaderValue::Bytes(hex(text)?.into())),
        Kind::Timestamp | Kind::TimestampTz => {
            Some(HeaderValue::Text(Bytes::from(iso_8601(text).into_owned().into_bytes())))
        }
        _ => None,
    };
    Ok(typed.unwrap_or_else(|| HeaderValue::Text(bytes.clone())))
}

/// The value's own bytes: what bytea holds, and the text of everything else.
pub fn binary(kind: Kind, value: &Value) -> Result<Option<Bytes>, ValueError> {
    match (text(value)?, kind) {
        (Some(text), Kind::Bytea) => Ok(Some(hex(std::str::from_utf8(text).map_err(|_| ValueError::NotHex)?)?.into())),
        (text, _) => Ok(text.cloned()),
    }
}

/// The bytes of a bytea in the form `\x0a0b` (PostgreSQL manual 8.4.1).
pub fn hex(text: &str) -> Result<Vec<u8>, ValueError> {
    let digits = text.strip_prefix("\\x").ok_or(ValueError::NotHex)?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(ValueError::NotHex);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(ValueError::NotHex);
    pairs.iter().map(|[high, low]| Ok((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

/// `2024-05-01 10:00:00.5+02` → `2024-05-01T10:00:00.5+02:00`; `+00` → `Z`. Years BC and infinity stay as they are.
pub fn iso_8601(text: &str) -> Cow<'_, str> {
    let Some((date, clock)) = text.split_once(' ') else { return Cow::Borrowed(text) };
    if !clock.ends_with(|last: char| last.is_ascii_digit()) {
        return Cow::Borrowed(text);
    }
    let zone = clock.find(['+', '-']).unwrap_or(clock.len());
    let (clock, zone) = clock.split_at(zone);
    let zone = match zone.len() {
        3 if zone == "+00" => "Z".to_owned(),
        3 => format!("{zone}:00"),
        _ => zone.to_owned(),
    };
    Cow::Owned(format!("{date}T{clock}{zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn json(kind: Kind, text: &str) -> String {
        let mut out = Vec::new();
        write_json(&mut out, kind, &value(text)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_has_a_json_form_that_loses_nothing() {
        for (kind, text, expected) in [
            (Kind::Bool, "t", "true"),
            (Kind::Bool, "f", "false"),
            (Kind::Int8, "-9223372036854775808", "-9223372036854775808"),
            (Kind::Numeric, "12345678901234567890.123456789000", "12345678901234567890.123456789000"),
            (Kind::Numeric, "NaN", "\"NaN\""),
            (Kind::Float8, "-Infinity", "\"-Infinity\""),
            (Kind::Float8, "1e-300", "1e-300"),
            (Kind::Money, "$1.00", "\"$1.00\""),
            (Kind::Json, "{ \"a\" : 1e400 }", "{ \"a\" : 1e400 }"),
            (Kind::Bytea, "\\x00ff10", "\"AP8Q\""),
            (Kind::Bytea, "\\x", "\"\""),
            (Kind::TimestampTz, "2024-05-01 10:00:00.5+02", "\"2024-05-01T10:00:00.5+02:00\""),
            (Kind::TimestampTz, "2024-05-01 10:00:00+00", "\"2024-05-01T10:00:00Z\""),
            (Kind::TimestampTz, "2024-05-01 10:00:00+05:30", "\"2024-05-01T10:00:00+05:30\""),
            (Kind::Timestamp, "2024-05-01 10:00:00", "\"2024-05-01T10:00:00\""),
            (Kind::Timestamp, "infinity", "\"infinity\""),
            (Kind::Timestamp, "0044-03-15 12:00:00 BC", "\"0044-03-15 12:00:00 BC\""),
            (Kind::Array(1007), "{{1,2},{3,NULL}}", "[[1,2],[3,null]]"),
            (Kind::Array(1009), "{a,\"b \\\"c\",NULL}", "[\"a\",\"b \\\"c\",null]"),
            (Kind::Array(3807), r#"{"{\"a\": 1.50}"}"#, r#"[{"a": 1.50}]"#),
            (Kind::Array(1007), "no array", "\"no array\""),
            (Kind::Date, "2024-05-01", "\"2024-05-01\""),
            (Kind::Text, "a \"b\"", "\"a \\\"b\\\"\""),
        ] {
            assert_eq!(json(kind, text), expected, "{kind:?}");
        }
        let mut out = Vec::new();
        write_json(&mut out, Kind::Json, &Value::Null).unwrap();
        assert_eq!(out, b"null");
    }

    #[test]
    fn headers_are_plain_and_typed() {
        assert_eq!(header(Kind::Int8, &value("7")).unwrap(), HeaderValue::Int(7));
        assert_eq!(header(Kind::Bool, &value("f")).unwrap(), HeaderValue::Bool(false));
        assert_eq!(header(Kind::Float8, &value("0.5")).unwrap(), HeaderValue::Float(0.5));
        assert_eq!(header(Kind::Float8, &value("NaN")).unwrap(), HeaderValue::Text("NaN".into()));
        assert_eq!(header(Kind::Numeric, &value("0.10")).unwrap(), HeaderValue::Text("0.10".into()));
        assert_eq!(header(Kind::Text, &value("x")).unwrap(), HeaderValue::Text("x".into()));
        assert_eq!(header(Kind::Bytea, &value("\\x01")).unwrap(), HeaderValue::Bytes(vec![1].into()));
        assert_eq!(header(Kind::Text, &Value::Null).unwrap(), HeaderValue::Null);
    }

    /// T26: a value that is not in the log is never taken for NULL.
    #[test]
    fn what_cannot_be_read_is_said() {
        assert_eq!(text(&Value::Unchanged), Err(ValueError::Unchanged));
        assert_eq!(utf8(&Value::Text(Bytes::from_static(b"\xff"))), Err(ValueError::NotUtf8));
        assert_eq!(hex("\\x0"), Err(ValueError::NotHex));
        assert_eq!(hex("abc"), Err(ValueError::NotHex));
        assert_eq!(hex("\\x0g"), Err(ValueError::NotHex));
    }

    #[test]
    fn bytes_are_the_bytes_of_bytea_and_the_text_of_the_rest() {
        assert_eq!(binary(Kind::Bytea, &value("\\x6869")).unwrap().unwrap(), "hi");
        assert_eq!(binary(Kind::Text, &value("hi")).unwrap().unwrap(), "hi");
        assert_eq!(binary(Kind::Text, &Value::Null).unwrap(), None);
    }
}
