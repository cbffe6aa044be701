//! Expansion for the default mode with schemas: a struct that holds all of the document, or nothing.
//!
//! Nulls and empty arrays stay, objects in an array are merged at every depth, 32 and 64 bits are one type. What a schema
//! cannot describe without loss (items of different types, numbers beyond 64 bits or beyond a double) is not expanded.

use super::super::names::adjusted;
use super::super::{FieldNameAdjustment, json_node};
use super::{Node, Shape, convert};
use crate::encode::strict::Datum;

/// Significant decimal digits that a double always keeps.
const DOUBLE_DIGITS: usize = 15;

/// The document and its shape; `None`: the text says it better. `text` is valid JSON.
pub fn expand_lossless(text: &str, names: FieldNameAdjustment) -> Option<(Datum, Shape)> {
    if !text.trim_start().starts_with(['{', '[']) || has_long_decimals(text) {
        return None;
    }
    let node = renamed(json_node::parse(text)?, names)?;
    let shape = infer(&node)?;
    Some((convert(&node, &shape, true).ok()?, shape))
}

/// With the names of members adjusted; `None` where two become alike.
fn renamed(node: Node, mode: FieldNameAdjustment) -> Option<Node> {
    Some(match node {
        Node::Array(items) => Node::Array(items.into_iter().map(|item| renamed(item, mode)).collect::<Option<_>>()?),
        Node::Object(members) => {
            let mut out: Vec<(Vec<u16>, Node)> = Vec::with_capacity(members.len());
            for (name, value) in members {
                let name = adjusted(&name, mode);
                if out.iter().any(|(known, _)| *known == name) {
                    return None;
                }
                out.push((name, renamed(value, mode)?));
            }
            Node::Object(out)
        }
        other => other,
    })
}

fn infer(node: &Node) -> Option<Shape> {
    Some(match node {
        Node::Null => Shape::Bytes,
        Node::Bool(_) => Shape::Bool,
        Node::Int(_) => Shape::Int,
        Node::Long(_) => Shape::Long,
        Node::Double(number) if number.is_finite() => Shape::Double,
        Node::Big | Node::Double(_) => return None,
        Node::Text(_) => Shape::Text,
        Node::Array(items) => {
            let mut of: Option<Shape> = None;
            for item in items.iter().filter(|item| **item != Node::Null) {
                let shape = infer(item)?;
                of = Some(match of {
                    Some(known) => united(known, shape)?,
                    None => shape,
                });
            }
            // Of nothing but nulls nothing is known, as of a null itself.
            Shape::Array(Box::new(of.unwrap_or(Shape::Bytes)))
        }
        Node::Object(members) => {
            if members.iter().any(|(name, _)| name.is_empty()) {
                return None;
            }
            let member = |(name, value): &(Vec<u16>, Node)| Some((name.clone(), infer(value)?));
            Shape::Struct { members: members.iter().map(member).collect::<Option<_>>()?, merged: false }
        }
    })
}

/// One type for both; `None`: there is none.
fn united(one: Shape, other: Shape) -> Option<Shape> {
    Some(match (one, other) {
        (Shape::Bytes, shape) | (shape, Shape::Bytes) => shape,
        (Shape::Int, Shape::Long) | (Shape::Long, Shape::Int) => Shape::Long,
        (Shape::Array(one), Shape::Array(other)) => Shape::Array(Box::new(united(*one, *other)?)),
        (Shape::Struct { mut members, .. }, Shape::Struct { members: more, .. }) => {
            for (name, shape) in more {
                match members.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) => *known = united(known.clone(), shape)?,
                    None => members.push((name, shape)),
                }
            }
            Shape::Struct { members, merged: false }
        }
        (one, other) if one == other => one,
        _ => return None,
    })
}

/// Whether a number with a fraction or an exponent has more digits than a double keeps.
pub fn has_long_decimals(text: &str) -> bool {
    let (mut in_string, mut escaped, mut digits, mut decimal) = (false, false, 0, false);
    // The space ends a number at the very end.
    for byte in text.bytes().chain([b' ']) {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'0'..=b'9' => digits += 1,
            b'.' | b'e' | b'E' | b'+' | b'-' => decimal |= matches!(byte, b'.' | b'e' | b'E'),
            _ => {
                if decimal && digits > DOUBLE_DIGITS {
                    return true;
                }
                (digits, decimal, in_string) = (0, false, byte == b'"');
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::strict::write_json;

    fn expanded(text: &str) -> Option<String> {
        let (datum, _) = expand_lossless(text, FieldNameAdjustment::None)?;
        let mut out = Vec::new();
        write_json(&mut out, &datum);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_document_is_expanded_whole() {
        for same in [
            r#"{"a":null,"b":[],"c":{"d":[null]}}"#,
            r#"[{"a":[1,2147483648]},{"a":[]}]"#,
            r#"{"a":[[],[1]]}"#,
            r#"{"n":1.5,"s":"12345678901234567890.5e"}"#,
        ] {
            assert_eq!(expanded(same).as_deref(), Some(same), "{same}");
        }
        let merged = r#"{"a":[{"o":{"p":1,"q":null}},{"o":{"p":null,"q":2}}]}"#;
        assert_eq!(expanded(r#"{"a":[{"o":{"p":1}},{"o":{"q":2}}]}"#).as_deref(), Some(merged));
    }

    #[test]
    fn what_a_schema_would_lose_is_not_expanded() {
        for text in [
            r#"{"a":[1,"x"]}"#,
            r#"{"a":[1,1.5]}"#,
            r#"{"n":9223372036854775808}"#,
            r#"{"n":1e400}"#,
            r#"{"n":12345678901234567.89}"#,
            r#"{"":1}"#,
            "1",
            "\"{\"",
        ] {
            assert_eq!(expanded(text), None, "{text}");
        }
    }

    #[test]
    fn renamed_members_keep_their_data_unless_two_become_alike() {
        let avro = |text| expand_lossless(text, FieldNameAdjustment::Avro).map(|(datum, _)| datum);
        assert_eq!(avro(r#"{"a b":1}"#), Some(Datum::Struct(vec![(Datum::name("a_b"), Datum::Int(1))])));
        assert_eq!(avro(r#"{"a b":1,"a-b":2}"#), None);
    }
}
