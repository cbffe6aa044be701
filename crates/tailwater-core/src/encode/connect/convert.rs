//! Connect's converters: a value with its schema → bytes of a key, a value or a header.

use super::super::strict::{Datum, simple, string, write_json, write_string};
use super::{ConnectRecord, Schema, SchemaKind, Typed};
use crate::route::{Compatibility, Format};
use crate::{HeaderValue, Headers, Message};
use bytes::Bytes;

/// One converter with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converter {
    /// `Json` = JsonConverter, `String` = StringConverter, `Binary` = ByteArrayConverter; of headers also `Plain` =
    /// SimpleHeaderConverter.
    pub format: Format,
    /// JsonConverter's `schemas.enable`: `{"schema":…,"payload":…}`.
    pub schemas: bool,
    /// JsonConverter's `replace.null.with.default`: null in a field with a default is written as the default.
    pub replace_null: bool,
    /// JsonConverter's `decimal.format=NUMERIC`: decimals are JSON numbers, else their unscaled bytes in base64.
    pub numeric: bool,
    /// What a broker can say of a value is said: numbers and booleans in plain headers keep their type, and a column of JSON
    /// in the format `String` its MIME type. Never in strict compatibility.
    pub typed: bool,
}

impl Converter {
    /// `replace_null` on, all else off: what Debezium gives.
    pub fn new(format: Format) -> Converter {
        Converter { format, schemas: false, replace_null: true, numeric: false, typed: false }
    }

    /// With the meaning of null that the compatibility asks for: Debezium writes a null of the row as the column's default.
    pub fn of(format: Format, schemas: bool, compatibility: Compatibility) -> Converter {
        let strict = compatibility == Compatibility::Strict;
        Converter { format, schemas, replace_null: strict, numeric: false, typed: !strict }
    }

    /// Bytes of a key or a value. `None`: no bytes at all.
    pub fn bytes(&self, value: &Typed) -> Result<Option<Bytes>, String> {
        if value.is_none() {
            return Ok(None);
        }
        match self.format {
            Format::Json | Format::Plain => Ok(Some(self.json(value))),
            Format::String => {
                if value.schema.as_deref().is_some_and(prints_a_java_date) {
                    return Err("the string format cannot write Connect's Date, Time and Timestamp".into());
                }
                if self.typed && matches!(value.datum, Datum::Bytes(_) | Datum::ByteArray(_)) {
                    return Err("the string format cannot write bytes: use json or binary".into());
                }
                Ok(string(&value.datum).map(Bytes::from))
            }
            Format::Binary => match &value.datum {
                Datum::Null => Ok(None),
                Datum::Bytes(bytes) | Datum::ByteArray(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
                _ => Err("the binary format takes bytes only".into()),
            },
        }
    }

    /// A header's value: text, or null; typed if so wanted.
    pub fn header(&self, value: &Typed) -> Result<HeaderValue, String> {
        let text = match self.format {
            Format::Json => return Ok(HeaderValue::Text(self.json(value))),
            Format::Plain if self.typed => return Ok(typed(&value.datum)),
            _ if value.schema.as_deref().is_some_and(prints_a_java_date) => {
                return Err("a header in this format cannot be Connect's Date, Time or Timestamp".into());
            }
            Format::String => string(&value.datum),
            Format::Plain | Format::Binary => simple(&value.datum),
        };
        Ok(text.map_or(HeaderValue::Null, |text| HeaderValue::Text(text.into())))
    }

    fn content_type(&self, value: &Typed) -> &'static str {
        let json =
            || value.schema.as_ref().is_some_and(|schema| schema.name.as_deref() == Some("io.debezium.data.Json"));
        match self.format {
            Format::String if self.typed && (value.is_none() || json()) => "application/json",
            Format::Json | Format::Plain => "application/json",
            Format::String => "text/plain; charset=utf-8",
            Format::Binary => "application/octet-stream",
        }
    }

    fn json(&self, value: &Typed) -> Bytes {
        let schema = value.schema.as_deref();
        let mut out = Vec::with_capacity(512);
        if self.schemas {
            out.extend_from_slice(b"{\"schema\":");
            out.extend_from_slice(schema.map_or(b"null", |schema| schema.json(self.numeric)));
            out.extend_from_slice(b",\"payload\":");
        }
        let writing = Writing { replace_null: self.replace_null, numeric: self.numeric };
        write_value(&mut out, schema, &value.datum, writing);
        if self.schemas {
            out.push(b'}');
        }
        out.into()
    }
}

/// The three converters that end a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converters {
    pub key: Converter,
    pub value: Converter,
    pub header: Converter,
}

impl Converters {
    pub fn message(&self, record: &ConnectRecord) -> Result<Message, String> {
        let mut headers = Headers::default();
        for header in &record.headers {
            let value = self.header.header(&header.value).map_err(|why| format!("header {}: {why}", header.name))?;
            headers.push(header.name.clone(), value);
        }
        Ok(Message {
            id: record.id.clone(),
            topic: record.topic.clone(),
            event_type: record.event_type.clone(),
            key: self.key.bytes(&record.key)?,
            headers,
            content_type: self.value.content_type(&record.value),
            payload: self.value.bytes(&record.value)?,
            partition: record.partition,
            timestamp: record.timestamp,
        })
    }
}

/// As the outbox router's plain headers: what has no type at a broker is its text.
fn typed(datum: &Datum) -> HeaderValue {
    match datum {
        Datum::Bool(value) => HeaderValue::Bool(*value),
        Datum::Int(value) => HeaderValue::Int(*value),
        Datum::Float(value) if value.is_finite() => HeaderValue::Float(f64::from(*value)),
        Datum::Double(value) if value.is_finite() => HeaderValue::Float(*value),
        Datum::Bytes(bytes) | Datum::ByteArray(bytes) => HeaderValue::Bytes(Bytes::copy_from_slice(bytes)),
        other => simple(other).map_or(HeaderValue::Null, |text| HeaderValue::Text(text.into())),
    }
}

/// How values become JSON.
#[derive(Clone, Copy)]
pub(super) struct Writing {
    pub replace_null: bool,
    pub numeric: bool,
}

/// Appends a value as `JsonConverter` does: null in a field with a default is the default, if so wanted.
pub(super) fn write_value(out: &mut Vec<u8>, schema: Option<&Schema>, datum: &Datum, writing: Writing) {
    let Some(schema) = schema else { return write_json(out, datum) };
    let datum = match (datum, &schema.default) {
        (Datum::Null, Some(default)) if writing.replace_null => default,
        _ => datum,
    };
    match (datum, &schema.kind) {
        (Datum::Struct(members), SchemaKind::Struct(fields)) => {
            out.push(b'{');
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, name.iter().copied());
                out.push(b':');
                let schema = fields.get(index).map(|field| &*field.schema);
                write_value(out, schema, member, writing);
            }
            out.push(b'}');
        }
        (Datum::Array(items), SchemaKind::Array(of)) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, Some(of), item, writing);
            }
            out.push(b']');
        }
        (Datum::Decimal(decimal), _) if writing.numeric => out.extend_from_slice(decimal.to_string().as_bytes()),
        _ => write_json(out, datum),
    }
}

/// Connect's own logical times are `java.util.Date`s, and print themselves in English with a time zone.
fn prints_a_java_date(schema: &Schema) -> bool {
    let logical = ["Date", "Time", "Timestamp"];
    let name = schema.name.as_deref().and_then(|name| name.strip_prefix("org.apache.kafka.connect.data."));
    name.is_some_and(|name| logical.contains(&name))
        || match &schema.kind {
            SchemaKind::Array(items) => prints_a_java_date(items),
            SchemaKind::Struct(fields) => fields.iter().any(|field| prints_a_java_date(&field.schema)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::super::Field;
    use super::*;

    #[test]
    fn a_null_is_the_default_of_its_field_unless_told_otherwise() {
        let name = Schema::of(SchemaKind::String).optional().with_default(Some(Datum::Text("x".into()))).shared();
        let schema = Schema::of(SchemaKind::Struct(vec![Field { name: "name".into(), schema: name }])).shared();
        let value = Typed::new(&schema, Datum::Struct(vec![(Datum::name("name"), Datum::Null)]));
        let bytes =
            |converter: Converter| String::from_utf8_lossy(&converter.bytes(&value).unwrap().unwrap()).into_owned();
        let json = Converter::new(Format::Json);
        assert_eq!(bytes(json), r#"{"name":"x"}"#);
        assert_eq!(bytes(Converter { replace_null: false, ..json }), r#"{"name":null}"#);
        assert!(bytes(Converter { schemas: true, ..json }).ends_with(r#","payload":{"name":"x"}}"#));
    }

    #[test]
    fn null_with_a_schema_has_a_text_and_null_without_has_no_bytes() {
        let json = Converter::new(Format::Json);
        let schema = Schema::of(SchemaKind::String).optional().shared();
        assert_eq!(json.bytes(&Typed::NONE), Ok(None));
        assert_eq!(json.bytes(&Typed::new(&schema, Datum::Null)), Ok(Some(Bytes::from_static(b"null"))));
        let header = Converter { schemas: true, ..json }.header(&Typed::text("a"));
        let expected = Bytes::from_static(br#"{"schema":{"type":"string","optional":false},"payload":"a"}"#);
        assert_eq!(header, Ok(HeaderValue::Text(expected)));
    }

    #[test]
    fn decimals_are_numbers_when_asked_and_in_defaults_too() {
        let decimal = |text| Datum::Decimal(crate::encode::decimal::Decimal::parse(text).unwrap());
        let price = Schema::of(SchemaKind::Bytes).with_default(Some(decimal("1.50"))).shared();
        let schema = Schema::of(SchemaKind::Struct(vec![Field { name: "price".into(), schema: price }])).shared();
        let value = Typed::new(&schema, Datum::Struct(vec![(Datum::name("price"), decimal("12.30"))]));
        let text = |numeric| {
            let converter = Converter { schemas: true, numeric, ..Converter::new(Format::Json) };
            String::from_utf8(converter.bytes(&value).unwrap().unwrap().to_vec()).unwrap()
        };
        let expected = |default: &str, price: &str| {
            format!(
                r#"{{"schema":{{"type":"struct","fields":[{{"type":"bytes","optional":false,"default":{default},"field":"price"}}],"optional":false}},"payload":{{"price":{price}}}}}"#
            )
        };
        assert_eq!([text(false), text(true)], [expected("\"AJY=\"", "\"BM4=\""), expected("1.50", "12.30")]);
    }
}
