//! Schemas, and their JSON as `JsonConverter` writes it.

use super::super::strict::{Datum, write_string};
use super::convert::{Writing, write_value};
use std::io::Write;
use std::sync::{Arc, OnceLock};

/// A schema of Kafka Connect. Build it once, share it: it remembers its JSON.
#[derive(Debug)]
pub struct Schema {
    pub kind: SchemaKind,
    pub optional: bool,
    pub name: Option<Arc<str>>,
    pub version: Option<i32>,
    pub doc: Option<Arc<str>>,
    /// In the order in which they were set.
    pub parameters: Vec<(Arc<str>, Arc<str>)>,
    pub default: Option<Datum>,
    /// With decimals as base64, and as numbers.
    json: [OnceLock<Arc<[u8]>>; 2],
}

#[derive(Clone, Debug, PartialEq)]
pub enum SchemaKind {
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    String,
    Bytes,
    Array(Arc<Schema>),
    /// Keys and values. With keys of strings a value is a [`Datum::Struct`] whose members are the entries.
    Map(Arc<Schema>, Arc<Schema>),
    Struct(Vec<Field>),
}

/// A member of a struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: Arc<str>,
    pub schema: Arc<Schema>,
}

/// A clone begins without the JSON, so that it may be changed.
impl Clone for Schema {
    fn clone(&self) -> Self {
        Schema {
            kind: self.kind.clone(),
            optional: self.optional,
            name: self.name.clone(),
            version: self.version,
            doc: self.doc.clone(),
            parameters: self.parameters.clone(),
            default: self.default.clone(),
            json: Default::default(),
        }
    }
}

/// The JSON is no part of what a schema is.
impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.optional == other.optional
            && self.name == other.name
            && self.version == other.version
            && self.doc == other.doc
            && self.parameters == other.parameters
            && self.default == other.default
    }
}

impl Schema {
    /// Not optional, without a name.
    pub fn of(kind: SchemaKind) -> Schema {
        Schema {
            kind,
            optional: false,
            name: None,
            version: None,
            doc: None,
            parameters: Vec::new(),
            default: None,
            json: Default::default(),
        }
    }

    #[must_use]
    pub fn optional(mut self) -> Schema {
        self.optional = true;
        self
    }

    /// A logical type, or a struct's name.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>, version: Option<i32>) -> Schema {
        self.name = Some(name.into());
        self.version = version;
        self
    }

    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<Arc<str>>) -> Schema {
        self.parameters.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn with_default(mut self, default: Option<Datum>) -> Schema {
        self.default = default;
        self
    }

    pub fn shared(self) -> Arc<Schema> {
        Arc::new(self)
    }

    /// Members of a struct; none for everything else.
    pub fn fields(&self) -> &[Field] {
        match &self.kind {
            SchemaKind::Struct(fields) => fields,
            _ => &[],
        }
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| &*field.name == name)
    }

    /// As `JsonConverter` writes it; written once. `numeric`: decimals among the defaults are numbers.
    pub fn json(&self, numeric: bool) -> &[u8] {
        let [base64, number] = &self.json;
        (if numeric { number } else { base64 }).get_or_init(|| {
            let mut out = Vec::with_capacity(1024);
            self.write_json(&mut out, None, numeric);
            out.into()
        })
    }

    fn write_json(&self, out: &mut Vec<u8>, field: Option<&str>, numeric: bool) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(self.type_word().as_bytes());
        out.push(b'"');
        match &self.kind {
            SchemaKind::Array(items) => member_schema(out, "items", items, numeric),
            SchemaKind::Map(keys, values) => {
                member_schema(out, "keys", keys, numeric);
                member_schema(out, "values", values, numeric);
            }
            SchemaKind::Struct(fields) => {
                out.extend_from_slice(b",\"fields\":[");
                for (index, field) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    field.schema.write_json(out, Some(&field.name), numeric);
                }
                out.push(b']');
            }
            _ => {}
        }
        out.extend_from_slice(if self.optional { b",\"optional\":true" } else { b",\"optional\":false" });
        if let Some(name) = &self.name {
            member_text(out, "name", name);
        }
        if let Some(version) = self.version {
            write!(out, ",\"version\":{version}").expect("writing to a Vec cannot fail");
        }
        if let Some(doc) = &self.doc {
            member_text(out, "doc", doc);
        }
        if !self.parameters.is_empty() {
            out.extend_from_slice(b",\"parameters\":{");
            let from = out.len();
            for (name, value) in &self.parameters {
                member_text(out, name, value);
            }
            out.remove(from);
            out.push(b'}');
        }
        if let Some(default) = &self.default {
            out.extend_from_slice(b",\"default\":");
            write_value(out, Some(self), default, Writing { replace_null: true, numeric });
        }
        if let Some(field) = field {
            member_text(out, "field", field);
        }
        out.push(b'}');
    }

    fn type_word(&self) -> &'static str {
        match self.kind {
            SchemaKind::Int8 => "int8",
            SchemaKind::Int16 => "int16",
            SchemaKind::Int32 => "int32",
            SchemaKind::Int64 => "int64",
            SchemaKind::Float32 => "float",
            SchemaKind::Float64 => "double",
            SchemaKind::Boolean => "boolean",
            SchemaKind::String => "string",
            SchemaKind::Bytes => "bytes",
            SchemaKind::Array(_) => "array",
            SchemaKind::Map(..) => "map",
            SchemaKind::Struct(_) => "struct",
        }
    }
}

fn member_text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b',');
    write_string(out, name.encode_utf16());
    out.push(b':');
    write_string(out, value.encode_utf16());
}

fn member_schema(out: &mut Vec<u8>, name: &str, schema: &Schema, numeric: bool) {
    out.push(b',');
    write_string(out, name.encode_utf16());
    out.push(b':');
    schema.write_json(out, None, numeric);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Kafka Connect 4.3.0.
    #[test]
    fn a_schema_has_the_json_of_connects_converter() {
        let field = |name: &str, schema: Schema| Field { name: name.into(), schema: schema.shared() };
        let allowed = Schema::of(SchemaKind::String)
            .optional()
            .named("io.debezium.data.Enum", Some(1))
            .parameter("allowed", "true,false")
            .with_default(Some(Datum::Text("false".into())));
        let items = Schema::of(SchemaKind::Int32).optional().shared();
        let schema = Schema::of(SchemaKind::Struct(vec![
            field("snapshot", allowed),
            field("list", Schema::of(SchemaKind::Array(items))),
        ]))
        .named("a.b", None);
        let expected = concat!(
            r#"{"type":"struct","fields":[{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"#,
            r#""parameters":{"allowed":"true,false"},"default":"false","field":"snapshot"},"#,
            r#"{"type":"array","items":{"type":"int32","optional":true},"optional":false,"field":"list"}],"#,
            r#""optional":false,"name":"a.b"}"#
        );
        assert_eq!(String::from_utf8_lossy(schema.json(false)), expected);
        let renamed = schema.clone().named("c", None);
        assert!(
            renamed.json(false).ends_with(br#""name":"c"}"#),
            "what was written once is not that of a changed clone"
        );
    }
}
