//! `debezium.format.*`: converters of value, key and headers.

use super::super::origin::Origin;
use super::keys::Mode;
use super::{Front, Mapper};

const VALUE: &str = "debezium.format.value";
const KEY: &str = "debezium.format.key";
const HEADER: &str = "debezium.format.header";
const STRICT: Origin = Origin::Chosen("strict compatibility");

impl Mapper<'_> {
    pub(super) fn formats(&mut self) {
        self.value_format();
        self.key_format();
        self.header_format();
        for (converter, part) in [(VALUE, "route.value_numeric"), (KEY, "route.key_numeric")] {
            if self.mode == Mode::Changes {
                self.decimals(converter, part);
            }
        }
    }

    fn decimals(&mut self, converter: &str, part: &str) {
        let keys = [format!("{converter}.decimal.format"), "debezium.format.decimal.format".to_owned()];
        let Some(key) = keys.into_iter().find(|key| self.value(key).is_some()) else { return };
        match self.value(&key).unwrap_or_default().to_uppercase().as_str() {
            "BASE64" => {}
            "NUMERIC" => {
                let origin = self.origin(&key);
                self.set(part, "true", origin);
            }
            other => {
                let text = format!("`{other}` is neither BASE64 nor NUMERIC");
                self.problem(&key, text);
            }
        }
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
        if format.unwrap_or("json") == "json" && !self.wrap(VALUE, "route.value_schemas") {
            let key = self.schemas(VALUE).1;
            self.decide(&key, "the body has no schema wrapper (Debezium: {\"schema\":…,\"payload\":…} unless false)");
        }
    }

    /// Sets what is written about a converter's schemas, in strict compatibility also what is not; false: nothing was written.
    fn wrap(&mut self, converter: &str, part: &str) -> bool {
        let (schemas, key) = self.schemas(converter);
        let origin = if schemas.is_some() { self.origin(&key) } else { STRICT };
        let known = schemas.is_some() || self.strict;
        if known {
            self.set(part, if schemas.unwrap_or(true) { "true" } else { "false" }, origin);
        }
        known
    }

    fn key_format(&mut self) {
        let format = self.converter(KEY);
        let by_key =
            self.value("debezium.sink.rabbitmq.routingKey.source").is_some_and(|s| s.eq_ignore_ascii_case("key"));
        let seen = by_key || self.front == Front::Connect || self.value("debezium.sink.type") == Some("kafka");
        let text = self.mode == Mode::Outbox && !self.strict;
        let chosen = format.unwrap_or(if text { "string" } else { "json" });
        if format.is_some() || self.strict {
            let origin = if format.is_some() { self.origin(KEY) } else { STRICT };
            self.set("route.key_format", chosen, origin);
        }
        if chosen == "json" && !self.wrap(KEY, "route.key_schemas") && seen {
            let key = self.schemas(KEY).1;
            self.decide(&key, "the key has no schema wrapper (Debezium: {\"schema\":…,\"payload\":…} unless false)");
        }
        if format.is_none() && text && seen {
            self.decide(KEY, "the key is plain text, without quotes and schema, as a routing key should be");
        }
    }

    fn header_format(&mut self) {
        if self.front == Front::Connect {
            return;
        }
        let format = self.converter(HEADER);
        let own =
            self.value(&format!("{HEADER}.schemas.enable")).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if format.is_none() && !self.strict && !own {
            let text = "headers are plain values (Debezium: JSON texts, with quotes and schema); json keeps JSON texts";
            return self.decide(HEADER, text);
        }
        let written = if format.is_some() { HEADER.to_owned() } else { format!("{HEADER}.schemas.enable") };
        let origin = if self.value(&written).is_some() { self.origin(&written) } else { STRICT };
        self.set("route.header_format", "json", origin);
        if !self.wrap(HEADER, "route.header_schemas") {
            let key = self.schemas(HEADER).1;
            self.decide(&key, "the JSON texts in headers have no schema wrapper");
        }
    }
}
