//! The shape of a connector's configuration, checked first and told as Kafka Connect and Debezium tell it: clients show
//! these texts to people, and some look for words in them.

use super::Wrong;
use crate::config::debezium::keys::{self, Mode, Status};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The one class of connectors that there is; also under its short names.
pub const POSTGRES: &str = "io.debezium.connector.postgresql.PostgresConnector";

const REQUIRED: [&str; 2] = ["database.hostname", "topic.prefix"];
const SNAPSHOTS: [&str; 7] =
    ["always", "initial_only", "configuration_based", "when_needed", "initial", "custom", "no_data"];
/// Known to Debezium as names of its transforms and of Connect's.
const TRANSFORMS: [&str; 3] =
    ["io.debezium.transforms.", "io.debezium.connector.", "org.apache.kafka.connect.transforms."];
const CONVERTERS: [&str; 3] = ["org.apache.kafka.connect.", "io.debezium.converters.", "io.confluent.connect."];

/// Everything that is wrong with the shape.
pub(super) fn shape(keys: &BTreeMap<String, String>) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let mut say = |key: &str, text: String| wrong.push(Wrong { key: Some(key.to_owned()), text });
    let value = |key: &str| keys.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
    // in the order in which Debezium names them
    let missing =
        |key: &str| value(key).is_none().then(|| format!("The '{key}' value is invalid: A value is required"));
    if let Some(text) = missing("database.hostname") {
        say("database.hostname", text);
    }
    if value("database.port").is_some_and(|port| port.parse::<u16>().is_err()) {
        say("database.port", "The 'database.port' value is invalid: An integer is expected".into());
    }
    if let Some(text) = missing("topic.prefix") {
        say("topic.prefix", text);
    }
    if let Some(mode) = value("snapshot.mode")
        .filter(|mode| !SNAPSHOTS.contains(&mode.to_lowercase().as_str()) && !["never", "schema_only"].contains(mode))
    {
        let text = format!(
            "The 'snapshot.mode' value is invalid: Value must be one of {} (and not {mode})",
            SNAPSHOTS.join(", ")
        );
        say("snapshot.mode", text);
    }
    match value("tasks.max").unwrap_or("1").parse::<i64>() {
        Ok(1..) => {}
        Ok(less) => {
            say("tasks.max", format!("Invalid value {less} for configuration tasks.max: Value must be at least 1"))
        }
        Err(_) => {
            let text = value("tasks.max").unwrap_or_default();
            say("tasks.max", format!("Invalid value {text} for configuration tasks.max: Not a number of type INT"));
        }
    }
    for alias in
        keys.get("transforms").into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|a| !a.is_empty())
    {
        let key = format!("transforms.{alias}.type");
        match value(&key) {
            None => say(&key, format!("Missing required configuration \"{key}\" which has no default value.")),
            Some(class) if !TRANSFORMS.iter().any(|known| class.starts_with(known)) => {
                say(&key, format!("Invalid value {class} for configuration {key}: Class {class} could not be found."));
            }
            Some(_) => {}
        }
    }
    for key in ["key.converter", "value.converter", "header.converter"] {
        if let Some(class) = value(key).filter(|class| !CONVERTERS.iter().any(|known| class.starts_with(known))) {
            say(key, format!("Invalid value {class} for configuration {key}: Class {class} could not be found."));
        }
    }
    wrong
}

/// The keys that a connector may have, as `/connector-plugins/…/config` shows them.
pub fn definitions() -> Vec<Value> {
    let mut all = vec![
        definition("name", true, "HIGH", "Common", "Name of the connector: unique in this process."),
        definition("connector.class", true, "HIGH", "Common", "Class of the connector: PostgreSQL by its log."),
        definition("tasks.max", false, "HIGH", "Common", "Accepted; a slot has one reader, so there is one task."),
        definition("key.converter", false, "LOW", "Common", "JsonConverter, StringConverter or ByteArrayConverter."),
        definition("value.converter", false, "LOW", "Common", "JsonConverter, StringConverter or ByteArrayConverter."),
        definition(
            "header.converter",
            false,
            "LOW",
            "Common",
            "SimpleHeaderConverter, JsonConverter or StringConverter.",
        ),
        definition("transforms", false, "LOW", "Transforms", "Names of transforms, in their order."),
        definition("predicates", false, "LOW", "Predicates", "Names of predicates."),
    ];
    for (group, keys) in keys::GROUPS {
        for key in keys.iter() {
            let Some(name) = key.name.strip_prefix("debezium.source.") else { continue };
            if name.contains(['<', '*']) || all.iter().any(|known| known["name"] == name) {
                continue;
            }
            let (importance, text) = match key.status(Mode::Changes) {
                Status::Works(_, text) => ("HIGH", if text.is_empty() { "Has its meaning here." } else { text }),
                Status::Ignored(why) | Status::StrictOnly(_, why) => ("LOW", why),
                Status::Refused(_, why) => ("LOW", why),
            };
            all.push(definition(name, REQUIRED.contains(&name), importance, group, text));
        }
    }
    for (index, entry) in all.iter_mut().enumerate() {
        entry["order_in_group"] = json!(index + 1);
    }
    all
}

fn definition(name: &str, required: bool, importance: &str, group: &str, text: &str) -> Value {
    let kind = if super::is_secret(name) { "PASSWORD" } else { "STRING" };
    json!({
        "name": name, "type": kind, "required": required, "default_value": null, "importance": importance,
        "documentation": text, "group": group, "order_in_group": 0, "width": "MEDIUM", "display_name": name,
        "dependents": [],
    })
}
