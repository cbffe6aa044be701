//! `/connector-plugins`: the one class of connectors, what it takes, and whether a configuration would do.

use super::answer::{Answer, Refusal, body, ok};
use super::{Call, Connect};
use crate::config::connector::{self, POSTGRES, Wrong};
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Beyond connectors: what a configuration may name.
const OTHERS: [(&str, &str); 14] = [
    ("io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent", "transformation"),
    ("io.debezium.transforms.ExtractNewRecordState", "transformation"),
    ("io.debezium.transforms.outbox.EventRouter", "transformation"),
    ("org.apache.kafka.connect.transforms.RegexRouter", "transformation"),
    ("org.apache.kafka.connect.transforms.predicates.HasHeaderKey", "predicate"),
    ("org.apache.kafka.connect.transforms.predicates.RecordIsTombstone", "predicate"),
    ("org.apache.kafka.connect.transforms.predicates.TopicNameMatches", "predicate"),
    ("io.debezium.converters.BinaryDataConverter", "converter"),
    ("org.apache.kafka.connect.converters.ByteArrayConverter", "converter"),
    ("org.apache.kafka.connect.json.JsonConverter", "converter"),
    ("org.apache.kafka.connect.storage.StringConverter", "converter"),
    ("org.apache.kafka.connect.json.JsonConverter", "header_converter"),
    ("org.apache.kafka.connect.storage.SimpleHeaderConverter", "header_converter"),
    ("org.apache.kafka.connect.storage.StringConverter", "header_converter"),
];

/// Whether a class is ours, by its whole name or an alias.
pub(super) fn is_ours(class: &str) -> bool {
    [POSTGRES, "PostgresConnector", "Postgres"].contains(&class)
}

/// What Connect says of a class that it does not have.
pub(super) fn unknown_class(class: &str) -> String {
    format!(
        "Failed to find any class that implements Connector and which name matches {class}, available connectors are: \
         PluginDesc{{klass=class {POSTGRES}, name='{POSTGRES}', version='{VERSION}', encodedVersion={VERSION}, type=source, \
         typeName='source', location='built in'}}"
    )
}

impl Connect {
    pub(super) async fn plugins(&self, call: &Call, rest: &[&str]) -> Answer {
        match (&call.method, rest) {
            (&Method::GET, []) => {
                let mut all = vec![json!({ "class": POSTGRES, "type": "source", "version": VERSION })];
                if call.asks("connectorsOnly", "false") {
                    all.extend(OTHERS.map(|(class, kind)| json!({ "class": class, "type": kind, "version": VERSION })));
                }
                ok(&Value::Array(all))
            }
            (&Method::GET, [class, "config"]) if is_ours(class) => ok(&Value::Array(connector::definitions())),
            (&Method::GET, [class, "config"]) => Err(Refusal::not_found(format!("Unknown plugin {class}."))),
            (&Method::PUT, [class, "config", "validate"]) => self.validate(call, class).await,
            (_, [] | [_, "config"] | [_, "config", "validate"]) => Err(Refusal::plain(StatusCode::METHOD_NOT_ALLOWED)),
            _ => Err(Refusal::plain(StatusCode::NOT_FOUND)),
        }
    }

    /// Every key with its value and what is wrong with it.
    async fn validate(&self, call: &Call, class: &str) -> Answer {
        let config = call.object()?;
        let named = config.get("connector.class").and_then(Value::as_str);
        match named {
            None => {
                let shown = super::connectors::listed(&config);
                return Err(Refusal::bad(format!("Connector config {{{shown}}} contains no connector type")));
            }
            Some(named) if !is_ours(named) => return Err(Refusal::bad(unknown_class(named))),
            Some(named) if !is_ours(class) => {
                let text = format!("Included connector type {named} does not match request type {class}");
                return Err(Refusal::bad(text));
            }
            Some(_) => {}
        }
        let wrong = match self.examine(&config).await {
            Ok(_) => Vec::new(),
            Err(wrong) => wrong,
        };
        body(StatusCode::OK, &validated(class, &config, &wrong))
    }
}

fn validated(class: &str, config: &Map<String, Value>, wrong: &[Wrong]) -> Value {
    let shown = connector::masked(config);
    let mut groups: Vec<String> = Vec::new();
    let mut known = BTreeSet::new();
    let mut configs = Vec::new();
    for definition in connector::definitions() {
        let name = definition["name"].as_str().unwrap_or_default().to_owned();
        let group = definition["group"].as_str().unwrap_or_default().to_owned();
        if !groups.contains(&group) {
            groups.push(group);
        }
        let errors: Vec<&str> =
            wrong.iter().filter(|w| w.key.as_deref() == Some(&name)).map(|w| w.text.as_str()).collect();
        let value = json!({
            "name": name, "value": shown.get(&name), "recommended_values": [], "errors": errors, "visible": true,
        });
        configs.push(json!({ "definition": definition, "value": value }));
        known.insert(name);
    }
    // what belongs to no key that is listed is said at the class
    let rest = wrong.iter().filter(|w| w.key.as_ref().is_none_or(|key| !known.contains(key)));
    let rest: Vec<Value> = rest.map(|w| Value::from(w.text.as_str())).collect();
    let class_entry = configs.iter_mut().find(|entry| entry["value"]["name"] == "connector.class");
    if let Some(Value::Array(errors)) = class_entry.map(|entry| &mut entry["value"]["errors"]) {
        errors.extend(rest);
    }
    let name = config.get("connector.class").and_then(Value::as_str).unwrap_or(class);
    json!({ "name": name, "error_count": wrong.len(), "groups": groups, "configs": configs })
}
