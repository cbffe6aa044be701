//! A connector's keys, as they are posted to Kafka Connect: the same keys without the server's prefixes, and those of
//! Connect itself.

use super::keys::Mode;
use super::{Collected, Entry, Front, Mapper};
use crate::config::origin::{Notice, Origin, Problem};
use std::collections::BTreeMap;

/// Keys of Connect's own that ask for nothing here, each with the reason.
const WITHOUT_MEANING: [(&str, &str); 9] = [
    ("name", ""),
    ("tasks.max", ""),
    ("config.action.reload", "secrets are read again at every connection"),
    ("errors.", "an event that cannot be published holds the pipeline or becomes a dead letter; nothing is skipped"),
    ("exactly.once.support", "see `exactly_once` of the sink"),
    ("transaction.boundary", "transactions follow the source's"),
    ("offsets.storage.topic", "the position is kept in the state directory, or with exactly-once in Kafka"),
    ("topic.creation.", "see `topics` of the process's Kafka settings"),
    ("producer.override.", "the producer's safe settings cannot be overridden; others belong to `[kafka]`"),
];

/// What a converter's class is called in a server's file.
fn format(class: &str) -> Option<&'static str> {
    match class {
        "org.apache.kafka.connect.json.JsonConverter" => Some("json"),
        "org.apache.kafka.connect.storage.StringConverter" => Some("simplestring"),
        "org.apache.kafka.connect.converters.ByteArrayConverter" | "io.debezium.converters.BinaryDataConverter" => {
            Some("binary")
        }
        _ => None,
    }
}

/// Reads a connector's keys. Everything that is wrong goes to `collected.problems`.
pub fn read_connector(written: &BTreeMap<String, String>, collected: &mut Collected) {
    let mut entries = BTreeMap::new();
    let mut header = None;
    for (key, value) in written {
        let origin = Origin::File { file: "connector".into(), line: 0, key: Some(key.as_str().into()) };
        let entry = Entry { value: value.clone(), origin: origin.clone() };
        let without =
            WITHOUT_MEANING.iter().find(|(known, _)| key == known || (known.ends_with('.') && key.starts_with(known)));
        if let Some((_, why)) = without {
            if !why.is_empty() {
                collected.notices.push(Notice { key: key.clone(), text: format!("has no meaning here: {why}") });
            }
        } else if let Some(part) = key.strip_suffix(".converter").filter(|part| ["key", "value"].contains(part)) {
            match format(value.trim()) {
                Some(name) => {
                    drop(entries.insert(format!("debezium.format.{part}"), Entry { value: name.into(), ..entry }))
                }
                None => {
                    let text = format!(
                        "`{key}`: {value} is not part of this version: write JsonConverter, StringConverter or ByteArrayConverter"
                    );
                    collected.problems.push(Problem::at(&origin, text));
                }
            }
        } else if key == "header.converter" {
            header = Some(entry);
        } else if let Some((part, rest)) = key.split_once(".converter.") {
            entries.insert(format!("debezium.format.{part}.{rest}"), entry);
        } else if let Some(own) = key.strip_prefix("tailwater.") {
            if own == "state_dir" || ["http.", "pipelines.", "kafka."].iter().any(|part| own.starts_with(part)) {
                let text = format!("`{key}` belongs to the process's own configuration");
                collected.problems.push(Problem::at(&origin, text));
            }
            entries.insert(key.clone(), entry);
        } else if key == "connector.class" || !keys_of_chain(key) {
            entries.insert(format!("debezium.source.{key}"), entry);
        } else {
            entries.insert(format!("debezium.{key}"), entry);
        }
    }
    schemas(&mut entries, header.as_ref());
    let strict = written.get("tailwater.compatibility").is_some_and(|value| value.trim() == "strict");
    let mut mapper = Mapper { entries, strict, mode: Mode::Outbox, front: Front::Connect, collected };
    mapper.class_by_short_name();
    mapper.expand_values(&[]);
    mapper.mode = mapper.mode();
    mapper.sort_out();
    mapper.own_settings();
    mapper.source();
    mapper.set("sink.type", "kafka", Origin::Chosen("a connector's sink is Kafka"));
    mapper.formats();
    mapper.header_converter(header);
    mapper.transforms();
}

/// A converter that is configured without `schemas.enable` has schemas in Connect; one that is not is the worker's: ours has
/// none.
fn schemas(entries: &mut BTreeMap<String, Entry>, header: Option<&Entry>) {
    let json_headers = header.is_some_and(|entry| entry.value.trim().ends_with(".JsonConverter"));
    let is_json = |part: &str, entries: &BTreeMap<String, Entry>| match part {
        "header" => json_headers,
        _ => entries.get(&format!("debezium.format.{part}")).is_some_and(|entry| entry.value == "json"),
    };
    for part in ["key", "value", "header"] {
        let key = format!("debezium.format.{part}.schemas.enable");
        if is_json(part, entries) {
            let default = || Entry { value: "true".into(), origin: Origin::Chosen("Connect's default") };
            entries.entry(key).or_insert_with(default);
        } else {
            entries.remove(&key);
        }
    }
}

fn keys_of_chain(key: &str) -> bool {
    ["transforms", "predicates"].iter().any(|part| key == *part || key.starts_with(&format!("{part}.")))
}

impl Mapper<'_> {
    /// `PostgresConnector` and `Postgres` mean the same class, as aliases do in Connect.
    fn class_by_short_name(&mut self) {
        if let Some(entry) = self.entries.get_mut("debezium.source.connector.class")
            && ["PostgresConnector", "Postgres"].contains(&entry.value.trim())
        {
            entry.value = crate::config::connector::POSTGRES.into();
        }
    }

    fn header_converter(&mut self, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        let format = match entry.value.trim() {
            "org.apache.kafka.connect.storage.SimpleHeaderConverter" => "plain",
            "org.apache.kafka.connect.storage.StringConverter" => "string",
            "org.apache.kafka.connect.json.JsonConverter" => "json",
            other => {
                let text = format!(
                    "`header.converter`: {other} is not part of this version: write SimpleHeaderConverter, StringConverter or JsonConverter"
                );
                return self.collected.problems.push(Problem::at(&entry.origin, text));
            }
        };
        self.set("route.header_format", format, entry.origin);
        if format == "json" && self.is_true("debezium.format.header.schemas.enable") {
            let origin = self.origin("debezium.format.header.schemas.enable");
            self.set("route.header_schemas", "true", origin);
        }
    }
}
