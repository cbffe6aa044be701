//! `debezium.format.*`: converters of value, key and headers.

use super::super::origin::Origin;
use super::Mapper;

const VALUE: &str = "debezium.format.value";
const KEY: &str = "debezium.format.key";
const HEADER: &str = "debezium.format.header";
const LATER: &str = "the schema wrapper (schemas.enable=true) comes with a later version: write false";

impl Mapper<'_> {
    pub(super) fn formats(&mut self) {
        self.value_format();
        self.key_format();
        self.header_format();
    }

    /// `schemas.enable` of one converter: its own, else the common one; and the key that says it.
    fn schemas(&self, converter: &str) -> (Option<bool>, String) {
        let own = format!("{converter}.schemas.enable");
        let common = "debezium.format.schemas.enable".to_owned();
        let parse = |key: &str| self.value(key).map(|value| value.eq_ignore_ascii_case("true"));
        match (parse(&own), parse(&common)) {
            (Some(value), _) => (Some(value), own),
            (None, Some(value)) => (Some(value), common),
            (None, None) => (None, own),
        }
    }

    /// Our name of a format; complaints are made here.
    fn converter(&mut self, key: &str) -> Option<&'static str> {
        let name = self.value(key)?.to_lowercase();
        match name.as_str() {
            "json" | "jsonbytearray" => Some("json"),
            "simplestring" if key != HEADER => Some("string"),
            "binary" if key != HEADER => Some("binary"),
            "avro" | "protobuf" | "cloudevents" | "connect" | "clientprovided" => {
                self.problem(key, format!("`{name}` is not part of this version: write json, simplestring or binary"));
                None
            }
            _ if key == HEADER => {
                self.problem(
                    key,
                    format!("there is no header format `{name}`: write json, or leave it out for plain values"),
                );
                None
            }
            _ => {
                self.problem(key, format!("there is no format `{name}`: write json, simplestring or binary"));
                None
            }
        }
    }

    fn value_format(&mut self) {
        let format = self.converter(VALUE);
        if let Some(format) = format {
            let origin = self.origin(VALUE);
            self.set("route.value_format", format, origin);
        }
        if format.unwrap_or("json") != "json" {
            return;
        }
        match self.schemas(VALUE) {
            (Some(true), key) => self.problem(&key, LATER),
            (Some(false), _) => {}
            (None, key) if self.strict => self.problem(&key, format!("strict compatibility: {LATER}")),
            (None, key) => self
                .decide(&key, "the body has no schema wrapper (Debezium: {\"schema\":…,\"payload\":…} unless false)"),
        }
    }

    fn key_format(&mut self) {
        let format = self.converter(KEY);
        let by_key =
            self.value("debezium.sink.rabbitmq.routingKey.source").is_some_and(|s| s.eq_ignore_ascii_case("key"));
        let chosen = format.unwrap_or(if self.strict { "json" } else { "string" });
        if format.is_some() || self.strict {
            let origin = match self.origin(KEY) {
                Origin::Default => Origin::Chosen("strict compatibility"),
                origin => origin,
            };
            self.set("route.key_format", chosen, origin);
        }
        if !by_key {
            return;
        }
        match self.schemas(KEY) {
            (Some(true), key) if chosen == "json" => self.problem(&key, LATER),
            (None, key) if self.strict && chosen == "json" => {
                self.problem(&key, format!("strict compatibility: {LATER}"));
            }
            _ if format.is_none() && !self.strict => {
                self.decide(KEY, "the key is plain text, without quotes and schema, as a routing key should be");
            }
            _ => {}
        }
    }

    fn header_format(&mut self) {
        let format = self.converter(HEADER);
        let (schemas, key) = self.schemas(HEADER);
        match (schemas, format, self.strict) {
            (Some(true), ..) => self.problem(&key, LATER),
            (None, _, true) => self.problem(&key, format!("strict compatibility: {LATER}")),
            (_, None, false) => {
                let text =
                    "headers are plain values (Debezium: JSON texts, with quotes and schema); json keeps JSON texts";
                self.decide(HEADER, text);
            }
            (None, Some(_), false) => self.decide(&key, "the JSON texts in headers have no schema wrapper"),
            (Some(false), ..) => {}
        }
        if format.is_some() || self.strict {
            let origin = match self.origin(HEADER) {
                Origin::Default => Origin::Chosen("strict compatibility"),
                origin => origin,
            };
            self.set("route.header_format", "json", origin);
        }
    }
}
