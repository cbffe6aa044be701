//! `field.name.adjustment.mode`: member names that Avro takes.
//!
//! Debezium looks renamed members up by their new name and so loses their data; strict compatibility repeats that. The
//! default mode renames them in the text and changes nothing else.

use super::FieldNameAdjustment;
use crate::encode::json::{Escapes, write_string};

/// `field.name.adjustment.mode`: names that Avro takes.
pub fn adjusted(name: &[u16], mode: FieldNameAdjustment) -> Vec<u16> {
    let mut out = Vec::with_capacity(name.len());
    for (index, unit) in name.iter().copied().enumerate() {
        let character = char::from_u32(u32::from(unit)).unwrap_or('\u{FFFD}');
        let letter = character.is_ascii_alphabetic();
        let digit = character.is_ascii_digit();
        match mode {
            FieldNameAdjustment::None => out.push(unit),
            FieldNameAdjustment::Avro => {
                if index == 0 && digit {
                    out.push(u16::from(b'_'));
                }
                out.push(if letter || digit || character == '_' { unit } else { u16::from(b'_') });
            }
            FieldNameAdjustment::AvroUnicode if letter || (digit && index > 0) => out.push(unit),
            FieldNameAdjustment::AvroUnicode => out.extend(format!("_u{unit:04x}").encode_utf16()),
        }
    }
    out
}

/// The JSON text with its members renamed; every other byte stays. Two names that become alike both stay.
pub fn rename_members(json: &str, mode: FieldNameAdjustment) -> String {
    let bytes = json.as_bytes();
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'"' {
            at += 1;
            continue;
        }
        let end = string_end(bytes, at);
        let after = bytes[end..].iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        // Only a member's name is followed by a colon. One with a lone surrogate cannot be read, and stays.
        if after == Some(&b':')
            && let Ok(name) = serde_json::from_str::<String>(&json[at..end])
        {
            let units: Vec<u16> = name.encode_utf16().collect();
            let renamed = adjusted(&units, mode);
            if renamed != units {
                out.extend_from_slice(&bytes[copied..at]);
                write_string(&mut out, &String::from_utf16_lossy(&renamed), Escapes::Needed);
                copied = end;
            }
        }
        at = end;
    }
    out.extend_from_slice(&bytes[copied..]);
    String::from_utf8_lossy(&out).into_owned()
}

/// Right after the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_names_of_avro() {
        let name = |name: &str, mode| {
            let units: Vec<u16> = name.encode_utf16().collect();
            String::from_utf16(&adjusted(&units, mode)).unwrap()
        };
        for (given, avro, unicode) in [
            ("test$", "test_", "test_u0024"),
            ("1a", "_1a", "_u0031a"),
            ("ü", "_", "_u00fc"),
            ("a_b", "a_b", "a_u005fb"),
            ("ok", "ok", "ok"),
        ] {
            assert_eq!(name(given, FieldNameAdjustment::Avro), avro);
            assert_eq!(name(given, FieldNameAdjustment::AvroUnicode), unicode);
            assert_eq!(name(given, FieldNameAdjustment::None), given);
        }
    }

    #[test]
    fn members_are_renamed_and_nothing_else_is_touched() {
        let json = r#"{ "a b" : "c:d \" e", "o":[{"x-y":1.50, "\u0061":null}, "p q"],"ok":{"1":"a b"}}"#;
        let renamed = r#"{ "a_b" : "c:d \" e", "o":[{"x_y":1.50, "\u0061":null}, "p q"],"ok":{"_1":"a b"}}"#;
        assert_eq!(rename_members(json, FieldNameAdjustment::Avro), renamed);
        assert_eq!(rename_members("[\"a b\"]", FieldNameAdjustment::Avro), "[\"a b\"]");
    }
}
