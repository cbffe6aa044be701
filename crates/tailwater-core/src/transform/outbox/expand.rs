//! Strict JSON expansion: what Debezium makes of a JSON text payload, with all its losses.
//!
//! Debezium infers a schema from the document and then converts the document to it. Where the first step fails, the
//! payload stays a string; where only the second fails, its task dies: that event is rejected here. The default mode
//! needs none of this.

mod lossless;

pub use lossless::{expand_lossless, has_long_decimals};

use super::names::adjusted;
use super::{FieldNameAdjustment, JsonEmptyArray, JsonNull, OutboxOptions};
use crate::encode::connect::{Field, Schema, SchemaKind};
use crate::encode::strict::Datum;

/// What became of a text payload.
#[derive(Debug, PartialEq)]
pub enum Expanded {
    /// A value with structure.
    Value(Datum, Shape),
    /// Left as the string it is.
    Text,
    /// Left as the string it is, and without any schema.
    Bare,
    /// A schema was found that the document does not fit: the reason.
    Unfit(String),
}

/// Expands `text` as `table.expand.json.payload` does.
pub fn expand(text: &str, options: &OutboxOptions) -> Expanded {
    // Only the first character decides whether it is tried at all.
    if !text.starts_with(['{', '[']) {
        return Expanded::Text;
    }
    let Some(node) = super::json_node::parse(text) else { return Expanded::Text };
    let rules =
        Rules { null: options.json_null, empty: options.json_empty_array, names: options.field_name_adjustment };
    match (rules.infer(&node), &node) {
        (Err(Undetermined), _) => Expanded::Text,
        (Ok(None), _) => Expanded::Bare,
        // Its members are never converted, but the schema stays with the string.
        (Ok(Some(_)), Node::Array(_)) => {
            Expanded::Unfit("a JSON array cannot be the whole payload when expanded".into())
        }
        (Ok(Some(shape)), node) => match convert(node, &shape, false) {
            Ok(datum) => Expanded::Value(datum, shape),
            Err(why) => Expanded::Unfit(why),
        },
    }
}

/// A parsed document. Strings are UTF-16, as in Java.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    /// Beyond 64 bits.
    Big,
    Double(f64),
    Text(Vec<u16>),
    Array(Vec<Node>),
    /// Names are unique: a repeated one has the last value in the first place.
    Object(Vec<(Vec<u16>, Node)>),
}

/// The schema of a document: what is optional of it, all but one thing is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Text,
    Bool,
    Int,
    Long,
    Double,
    /// A null that is kept.
    Bytes,
    Array(Box<Shape>),
    /// `merged`: of items of an array that were not alike, which are not optional.
    Struct {
        members: Vec<(Vec<u16>, Shape)>,
        merged: bool,
    },
}

impl Shape {
    /// As a schema: structs are named after the way to them, which begins at `key`.
    pub fn schema(&self, key: Option<&str>) -> Result<Schema, &'static str> {
        let kind = match self {
            Shape::Text => SchemaKind::String,
            Shape::Bool => SchemaKind::Boolean,
            Shape::Int => SchemaKind::Int32,
            Shape::Long => SchemaKind::Int64,
            Shape::Double => SchemaKind::Float64,
            Shape::Bytes => SchemaKind::Bytes,
            // Only structs hand the way on to what is in them.
            Shape::Array(item) => {
                let key = key.filter(|_| matches!(**item, Shape::Struct { .. }));
                SchemaKind::Array(item.schema(key)?.shared())
            }
            Shape::Struct { members, merged } => return struct_schema(members, *merged, key),
        };
        Ok(Schema::of(kind).optional())
    }
}

fn struct_schema(members: &[(Vec<u16>, Shape)], merged: bool, key: Option<&str>) -> Result<Schema, &'static str> {
    let mut fields = Vec::with_capacity(members.len());
    for (name, shape) in members {
        let name = String::from_utf16(name).map_err(|_| "has a member whose name is no text: it has no schema")?;
        let schema = match key.filter(|key| !key.trim().is_empty()) {
            Some(key) => shape.schema(Some(&format!("{key}.{name}")))?,
            None => shape.schema(Some(&name))?,
        };
        fields.push(Field { name: name.into(), schema: schema.shared() });
    }
    let mut schema = Schema::of(SchemaKind::Struct(fields));
    schema.name = key.map(Into::into);
    schema.optional = !merged;
    Ok(schema)
}

/// No schema can be inferred: the whole expansion is given up.
struct Undetermined;

#[derive(Clone, Copy)]
struct Rules {
    null: JsonNull,
    empty: JsonEmptyArray,
    names: FieldNameAdjustment,
}

impl Rules {
    /// `None`: the member is left out.
    fn infer(self, node: &Node) -> Result<Option<Shape>, Undetermined> {
        Ok(match node {
            Node::Null if self.null == JsonNull::OptionalBytes => Some(Shape::Bytes),
            Node::Null => None,
            Node::Bool(_) => Some(Shape::Bool),
            Node::Int(_) => Some(Shape::Int),
            Node::Long(_) => Some(Shape::Long),
            Node::Big | Node::Double(_) => Some(Shape::Double),
            Node::Text(_) => Some(Shape::Text),
            Node::Array(items) if items.is_empty() => match self.empty {
                JsonEmptyArray::Ignore => None,
                JsonEmptyArray::OptionalString => Some(Shape::Array(Box::new(Shape::Text))),
            },
            Node::Array(items) => Some(Shape::Array(Box::new(self.infer_item(items)?))),
            Node::Object(members) => Some(self.infer_struct(members)?),
        })
    }

    fn infer_struct(self, members: &[(Vec<u16>, Node)]) -> Result<Shape, Undetermined> {
        let mut shapes: Vec<(Vec<u16>, Shape)> = Vec::with_capacity(members.len());
        for (name, value) in members {
            let Some(shape) = self.infer(value)? else { continue };
            if name.is_empty() {
                return Err(Undetermined);
            }
            let name = adjusted(name, self.names);
            if !shapes.iter().any(|(known, _)| *known == name) {
                shapes.push((name, shape));
            }
        }
        Ok(Shape::Struct { members: shapes, merged: false })
    }

    /// The type of an array's items: of the first that is not null; all must be of its kind.
    fn infer_item(self, items: &[Node]) -> Result<Shape, Undetermined> {
        let mut present = items.iter().filter(|item| **item != Node::Null);
        let Some(first) = present.next() else {
            return self.infer(&Node::Null)?.ok_or(Undetermined);
        };
        let same_kind = |item: &Node| {
            let number = |node: &Node| matches!(node, Node::Int(_) | Node::Long(_) | Node::Big | Node::Double(_));
            if number(first) {
                return number(item) && matches!((self.infer(first), self.infer(item)), (Ok(a), Ok(b)) if a == b);
            }
            std::mem::discriminant(first) == std::mem::discriminant(item)
        };
        if !present.all(same_kind) {
            return Err(Undetermined);
        }
        if !matches!(first, Node::Object(_)) {
            return self.infer(first)?.ok_or(Undetermined);
        }
        let mut distinct: Vec<Shape> = Vec::new();
        for item in items {
            if let Node::Object(members) = item {
                let shape = self.infer_struct(members)?;
                if !distinct.contains(&shape) {
                    distinct.push(shape);
                }
            }
        }
        let merged = distinct.len() > 1;
        let mut members = Vec::new();
        for shape in distinct {
            if let Shape::Struct { members: more, .. } = shape {
                merge(&mut members, more);
            }
        }
        Ok(Shape::Struct { members, merged })
    }
}

/// Union of members. A type wins over a kept null; else the last one wins, but arrays keep their first item type.
fn merge(into: &mut Vec<(Vec<u16>, Shape)>, more: Vec<(Vec<u16>, Shape)>) {
    for (name, shape) in more {
        match into.iter_mut().find(|(known, _)| *known == name) {
            None => into.push((name, shape)),
            Some((_, Shape::Array(_))) if matches!(shape, Shape::Array(_)) => {}
            Some((_, known)) if *known == Shape::Bytes || shape != Shape::Bytes => *known = shape,
            Some(_) => {}
        }
    }
}

/// The document in the form of its schema. `wide`: a small integer may stand where there are large ones. Members are looked up by their *adjusted* name: renamed ones lose their data.
fn convert(node: &Node, shape: &Shape, wide: bool) -> Result<Datum, String> {
    match (node, shape) {
        (Node::Null, _) => Ok(Datum::Null),
        (Node::Bool(value), Shape::Bool) => Ok(Datum::Bool(*value)),
        (Node::Int(value), Shape::Int) => Ok(Datum::Int(i64::from(*value))),
        (Node::Long(value), Shape::Long) => Ok(Datum::Int(*value)),
        (Node::Int(value), Shape::Long) if wide => Ok(Datum::Int(i64::from(*value))),
        (Node::Double(value), Shape::Double) => Ok(Datum::Double(*value)),
        (Node::Text(units), Shape::Text) => Ok(Datum::Utf16(units.clone())),
        (Node::Array(items), Shape::Array(item)) => {
            items.iter().map(|node| convert(node, item, wide)).collect::<Result<_, _>>().map(Datum::Array)
        }
        (Node::Object(members), Shape::Struct { members: shapes, .. }) => {
            let of = |name: &Vec<u16>| members.iter().find(|(known, _)| known == name).map(|(_, node)| node);
            let member = |(name, shape): &(Vec<u16>, Shape)| {
                of(name)
                    .map_or(Ok(Datum::Null), |node| convert(node, shape, wide))
                    .map(|datum| (name.as_slice().into(), datum))
            };
            shapes.iter().map(member).collect::<Result<_, _>>().map(Datum::Struct)
        }
        (Node::Big, _) => Err("the JSON payload holds an integer beyond 64 bits".into()),
        _ => Err("the JSON payload holds an array whose items have different types".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::strict::write_json;

    fn expanded_with(text: &str, options: &OutboxOptions) -> String {
        match expand(text, options) {
            Expanded::Value(datum, _) => {
                let mut out = Vec::new();
                write_json(&mut out, &datum);
                String::from_utf8(out).unwrap()
            }
            Expanded::Text | Expanded::Bare => "text".into(),
            Expanded::Unfit(_) => "unfit".into(),
        }
    }

    fn expanded(text: &str) -> String {
        expanded_with(text, &OutboxOptions::default())
    }

    /// Recorded from Debezium 3.7.0: payload → what stood in the message; `text` = left a string, `unfit` = its task died.
    #[test]
    fn documents_are_expanded_as_observed() {
        for (payload, outcome) in [
            (r#"{"a":[1,"x"]}"#, "text"),
            (r#"{"a":[1,2.0]}"#, "text"),
            (r#"{"a":[1,2147483648]}"#, "text"),
            (r#"{"a":[2147483648,1]}"#, "text"),
            (r#"{"a":[9223372036854775808,1.5]}"#, "unfit"),
            (r#"{"a":[null,2,3]}"#, r#"{"a":[null,2,3]}"#),
            (r#"{"a":[null]}"#, "text"),
            (r#"{"a":["x",null,"y"]}"#, r#"{"a":["x",null,"y"]}"#),
            (r#"{"a":[null,{"x":1}]}"#, r#"{"a":[null,{"x":1}]}"#),
            (r#"{"a":[null,[1]]}"#, r#"{"a":[null,[1]]}"#),
            (r#"{"a":[{"x":1},{"y":2}]}"#, r#"{"a":[{"x":1,"y":null},{"x":null,"y":2}]}"#),
            (r#"{"a":[{"x":1},{"x":1.5}]}"#, "unfit"),
            (r#"{"a":[{"x":1},{"x":"s"}]}"#, "unfit"),
            (r#"{"a":[[1],["x"]]}"#, "unfit"),
            (r#"{"a":[{"o":{"p":1}},{"o":{"q":2}}]}"#, r#"{"a":[{"o":{"q":null}},{"o":{"q":2}}]}"#),
            (r#"{"a":[{},{"x":1}]}"#, r#"{"a":[{"x":null},{"x":1}]}"#),
            (r#"{"a":[{"x":[1]},{"x":[]}]}"#, r#"{"a":[{"x":[1]},{"x":[]}]}"#),
            (r#"{"a":[[1,2],[3]]}"#, r#"{"a":[[1,2],[3]]}"#),
            (r#"{"a":[[],[1]]}"#, "text"),
            (r#"{"a":[[["d"]]]}"#, r#"{"a":[[["d"]]]}"#),
            (r#"{"a":[],"b":1}"#, r#"{"b":1}"#),
            (r#"{"o":{"a":[]}}"#, r#"{"o":{}}"#),
            (r#"{"a":[[]]}"#, "text"),
            ("plain text", "text"),
            (r#"{"a":"#, "text"),
            (r#"{"a":1}x"#, r#"{"a":1}"#),
            (r#"{"a":1}{"b":2}"#, r#"{"a":1}"#),
            (r#"{"a":1,}"#, "text"),
            ("{\"a\":\"\t\"}", "text"),
            ("\u{feff}{\"a\":1}", "text"),
            (r#" {"a":1}"#, "text"),
            (r#"{"n":2147483648,"m":-2147483649}"#, r#"{"n":2147483648,"m":-2147483649}"#),
            (r#"{"n":9223372036854775808}"#, "unfit"),
            (r#"{"n":1e400}"#, r#"{"n":"Infinity"}"#),
            (r#"{"n":-0,"m":-0.0}"#, r#"{"n":0,"m":-0.0}"#),
            (r#"{"n":1e21,"o":123456789.125,"q":9999999.0}"#, r#"{"n":1.0E21,"o":1.23456789125E8,"q":9999999.0}"#),
            ("[1,2,3]", "unfit"),
            ("[[1]]", "unfit"),
            (r#"[{"a":1},{"a":2}]"#, "unfit"),
            ("[]", "text"),
            ("[null]", "text"),
            (r#"[1,"x"]"#, "text"),
            (r#"{"ü":"ä€😀"}"#, r#"{"ü":"ä€\uD83D\uDE00"}"#),
            (r#"{"a b":"x","":"empty"}"#, "text"),
            (r#"{"a":"\ud800"}"#, r#"{"a":"\uD800"}"#),
            (r#"{"a":1,"b":2,"a":"x"}"#, r#"{"a":"x","b":2}"#),
            (r#"{"o":{"a":null,"b":"x"},"c":null}"#, r#"{"o":{"b":"x"}}"#),
        ] {
            assert_eq!(expanded(payload), outcome, "{payload}");
        }
    }

    #[test]
    fn nulls_and_empty_arrays_are_kept_when_asked() {
        let nulls = OutboxOptions { json_null: JsonNull::OptionalBytes, ..OutboxOptions::default() };
        for same in [
            r#"{"a":null,"b":1}"#,
            r#"{"a":[null]}"#,
            r#"{"a":[{"x":null},{"x":"s"}]}"#,
            r#"{"a":[{"x":"s"},{"x":null}]}"#,
        ] {
            assert_eq!(expanded_with(same, &nulls), same);
        }
        let empty = OutboxOptions { json_empty_array: JsonEmptyArray::OptionalString, ..OutboxOptions::default() };
        for same in [r#"{"a":[]}"#, r#"{"o":{"a":[]}}"#, r#"{"a":[[]]}"#] {
            assert_eq!(expanded_with(same, &empty), same);
        }
        assert_eq!(expanded_with(r#"{"a":[{"x":[]},{"x":[1]}]}"#, &empty), "unfit");
    }

    #[test]
    fn adjusted_names_lose_their_data_as_there() {
        let avro = OutboxOptions { field_name_adjustment: FieldNameAdjustment::Avro, ..OutboxOptions::default() };
        assert_eq!(expanded_with(r#"{"test$":"x"}"#, &avro), r#"{"test_":null}"#);
        assert_eq!(expanded_with(r#"{"1a":1,"ok":2}"#, &avro), r#"{"_1a":null,"ok":2}"#);
        let unicode =
            OutboxOptions { field_name_adjustment: FieldNameAdjustment::AvroUnicode, ..OutboxOptions::default() };
        assert_eq!(
            expanded_with(r#"{"a b":"x","c":1,"ü":1,"a_b":1}"#, &unicode),
            r#"{"a_u0020b":null,"c":1,"_u00fc":null,"a_u005fb":null}"#
        );
    }
}
