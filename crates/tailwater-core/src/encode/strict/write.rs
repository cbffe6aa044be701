//! A value of Connect → the bytes of a converter.

use super::Datum;
use crate::encode::json::write_unicode_escape;
use crate::encode::number;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt::Write;

/// Appends what `JsonConverter` without schemas writes.
pub fn write_json(out: &mut Vec<u8>, datum: &Datum) {
    match datum {
        Datum::Null => out.extend_from_slice(b"null"),
        Datum::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Datum::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Datum::Float(value) => write_number(out, value.is_finite(), &number::float(*value)),
        Datum::Double(value) => write_number(out, value.is_finite(), &number::double(*value)),
        Datum::Text(text) => write_string(out, text.encode_utf16()),
        Datum::Utf16(units) => write_string(out, units.iter().copied()),
        Datum::Json(text) => out.extend_from_slice(text.as_bytes()),
        Datum::Bytes(bytes) | Datum::ByteArray(bytes) => write_string(out, BASE64.encode(bytes).encode_utf16()),
        Datum::Decimal(decimal) => write_string(out, decimal.unscaled_base64().encode_utf16()),
        Datum::Struct(members) => {
            out.push(b'{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, name.iter().copied());
                out.push(b':');
                write_json(out, value);
            }
            out.push(b'}');
        }
        Datum::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_json(out, item);
            }
            out.push(b']');
        }
    }
}

/// NaN and the infinities are no JSON numbers: Jackson puts them in quotes.
fn write_number(out: &mut Vec<u8>, finite: bool, text: &str) {
    if finite {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_string(out, text.encode_utf16());
    }
}

/// As Jackson writes bytes: surrogates escaped one by one, everything else in the BMP as UTF-8.
pub(in crate::encode) fn write_string(out: &mut Vec<u8>, units: impl Iterator<Item = u16>) {
    out.push(b'"');
    for unit in units {
        match unit {
            0x22 | 0x5C => out.extend_from_slice(&[b'\\', unit as u8]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0A => out.extend_from_slice(b"\\n"),
            0x0C => out.extend_from_slice(b"\\f"),
            0x0D => out.extend_from_slice(b"\\r"),
            0..0x20 => write_unicode_escape(out, unit),
            _ => match char::from_u32(u32::from(unit)) {
                Some(character) => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                None => write_unicode_escape(out, unit),
            },
        }
    }
    out.push(b'"');
}

/// `StringConverter`: `value.toString()`. `None` for null.
pub fn string(datum: &Datum) -> Option<String> {
    Some(match datum {
        Datum::Null => return None,
        Datum::Bool(value) => value.to_string(),
        Datum::Int(value) => value.to_string(),
        Datum::Float(value) => number::float(*value),
        Datum::Double(value) => number::double(*value),
        Datum::Text(text) | Datum::Json(text) => text.clone(),
        Datum::Utf16(units) => java_utf8(units),
        // A ByteBuffer prints itself, not its bytes.
        Datum::Bytes(bytes) => format!("java.nio.HeapByteBuffer[pos=0 lim={0} cap={0}]", bytes.len()),
        // An array prints its class and its address there: no two are alike.
        Datum::ByteArray(_) => "[B@0".into(),
        Datum::Decimal(decimal) => decimal.to_string(),
        Datum::Struct(members) => {
            let mut text = String::from("Struct{");
            for (name, value) in members {
                if let Some(value) = string(value) {
                    let comma = if text.ends_with('{') && text.len() == 7 { "" } else { "," };
                    write!(text, "{comma}{}={value}", java_utf8(name)).expect("writing to a String cannot fail");
                }
            }
            text.push('}');
            text
        }
        Datum::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| string(item).unwrap_or_else(|| "null".into())).collect();
            format!("[{}]", items.join(", "))
        }
    })
}

/// `SimpleHeaderConverter`: as [`string`] at the top, but bytes as base64 and structs like JSON. `None` for null.
pub fn simple(datum: &Datum) -> Option<String> {
    match datum {
        Datum::Bytes(bytes) => Some(BASE64.encode(bytes)),
        Datum::Struct(_) | Datum::Array(_) => {
            let mut out = Vec::new();
            write_json(&mut out, datum);
            Some(String::from_utf8_lossy(&out).into_owned())
        }
        _ => string(datum),
    }
}

/// Java's encoder writes a lone surrogate as a question mark.
fn java_utf8(units: &[u16]) -> String {
    char::decode_utf16(units.iter().copied()).map(|unit| unit.unwrap_or('?')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::decimal::Decimal;

    fn json(datum: &Datum) -> String {
        let mut out = Vec::new();
        write_json(&mut out, datum);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_value_has_the_bytes_of_three_converters() {
        let member = |name: &str, datum| (Datum::name(name), datum);
        for (datum, as_json, as_string, as_header) in [
            (Datum::Bool(true), "true", "true", "true"),
            (Datum::Int(-7), "-7", "-7", "-7"),
            (Datum::Float(1.5), "1.5", "1.5", "1.5"),
            (Datum::Double(f64::NAN), "\"NaN\"", "NaN", "NaN"),
            (Datum::Double(1e10), "1.0E10", "1.0E10", "1.0E10"),
            (
                Datum::Text("a\"\u{b}\u{7f}😀".into()),
                "\"a\\\"\\u000B\u{7f}\\uD83D\\uDE00\"",
                "a\"\u{b}\u{7f}😀",
                "a\"\u{b}\u{7f}😀",
            ),
            (Datum::Utf16(vec![0xD800]), "\"\\uD800\"", "?", "?"),
            (Datum::Bytes(vec![1, 2]), "\"AQI=\"", "java.nio.HeapByteBuffer[pos=0 lim=2 cap=2]", "AQI="),
            (Datum::Decimal(Decimal::parse("12.30").unwrap()), "\"BM4=\"", "12.30", "12.30"),
            (
                Datum::Struct(vec![
                    member("n", Datum::Null),
                    member("a", Datum::Int(1)),
                    member("b", Datum::Text("x".into())),
                ]),
                "{\"n\":null,\"a\":1,\"b\":\"x\"}",
                "Struct{a=1,b=x}",
                "{\"n\":null,\"a\":1,\"b\":\"x\"}",
            ),
            (Datum::Array(vec![Datum::Int(1), Datum::Null]), "[1,null]", "[1, null]", "[1,null]"),
        ] {
            assert_eq!(json(&datum), as_json);
            assert_eq!(string(&datum).as_deref(), Some(as_string));
            assert_eq!(simple(&datum).as_deref(), Some(as_header));
        }
        assert_eq!((json(&Datum::Null).as_str(), string(&Datum::Null), simple(&Datum::Null)), ("null", None, None));
    }
}
