//! A chain of transforms: each with its options and its predicate, as `route.transforms` has them.

use super::super::flags::PIPELINE;
use super::keys::{self, How, Mode, Status};
use super::predicates::Predicate;
use super::transforms::{LIST, ROUTER};
use super::{Entry, Mapper};
use serde_json::{Map, Value, json};

/// Name of an option there, and here.
type Options = [(&'static str, &'static str)];

const UNWRAP: &Options = &[
    ("delete.tombstone.handling.mode", "deletes"),
    ("add.fields", "add_fields"),
    ("add.fields.prefix", "add_fields_prefix"),
    ("add.headers", "add_headers"),
    ("add.headers.prefix", "add_headers_prefix"),
    ("route.by.field", "route_by"),
    ("replace.null.with.default", "replace_null"),
];
const REGEX: &Options = &[("regex", "regex"), ("replacement", "replacement")];
const DECODE: &Options = &[("fields.null.include", "include_nulls")];

/// Classes, what they are called here, and their options; those of the event router are in the table of keys.
const CLASSES: &[(&str, &str, &Options)] = &[
    (ROUTER, "event_router", &[]),
    ("io.debezium.transforms.ExtractNewRecordState", "extract_new_record_state", UNWRAP),
    ("org.apache.kafka.connect.transforms.RegexRouter", "regex_router", REGEX),
    (
        "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent",
        "decode_logical_decoding_message_content",
        DECODE,
    ),
];

impl Mapper<'_> {
    pub(super) fn chain(&mut self, aliases: &[String]) {
        let links: Vec<Value> = aliases.iter().filter_map(|alias| self.link(alias)).collect();
        if !links.is_empty() {
            let path = format!("pipelines.{PIPELINE}.route.transforms");
            self.collected.settings.set_value(&path, links, self.origin(LIST));
        }
    }

    fn link(&mut self, alias: &str) -> Option<Value> {
        let class_key = format!("{LIST}.{alias}.type");
        let Some(class) = self.value(&class_key).map(str::to_owned) else {
            self.problem(&class_key, "is missing: write the transform's class");
            return None;
        };
        let Some((_, kind, options)) = CLASSES.iter().find(|(known, ..)| *known == class) else {
            let known: Vec<&str> = CLASSES.iter().map(|(class, ..)| *class).collect();
            let text = format!("transform `{class}` is not part of this version: known are {}", known.join(", "));
            self.problem(&class_key, text);
            return None;
        };
        let mut link = Map::from_iter([("type".to_owned(), json!(kind))]);
        let prefix = format!("{LIST}.{alias}.");
        for (key, entry) in self.below(&prefix) {
            let option = &key[prefix.len()..];
            if ["type", "predicate", "negate"].contains(&option) {
                continue;
            }
            let named = options.iter().find(|(name, _)| *name == option).map(|(_, field)| *field);
            match named.or_else(|| router_option(&key).filter(|_| class == ROUTER)) {
                Some(field) => {
                    let value = self.option(&key, field, &entry);
                    link.insert(field.into(), value);
                }
                // what the table has no place for was said by it
                None if !matches!(keys::find(&key).map(|key| key.status(Mode::Changes)), Some(Status::Works(..))) => {}
                None => self.problem(&key, format!("`{option}` is no option of {class}")),
            }
        }
        for (option, field) in REGEX.iter().filter(|_| *kind == "regex_router") {
            if !link.contains_key(*field) {
                let key = format!("{prefix}{option}");
                self.problem(&key, "is missing: RegexRouter needs regex and replacement");
            }
        }
        if class == ROUTER && self.strict {
            link.entry("id_column").or_insert_with(|| "id".into());
        }
        if let Some(Predicate { kind, option, negate }) = self.predicate(alias) {
            let predicate = option.map_or(json!(kind), |(_, value)| json!({ kind: value }));
            link.insert("predicate".into(), predicate);
            if self.is_true(&negate) {
                link.insert("negate".into(), json!(true));
            }
        }
        Some(Value::Object(link))
    }

    pub(super) fn below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let of = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        of.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    /// Booleans and words are taken in capitals too; everything else as it stands.
    fn option(&mut self, key: &str, field: &str, entry: &Entry) -> Value {
        let text = entry.value.trim();
        let lower = text.to_lowercase();
        match field {
            "expand_json" | "tombstone_on_empty" | "replace_null" | "include_nulls" => match lower.as_str() {
                "true" => json!(true),
                "false" => json!(false),
                _ => {
                    self.problem(key, format!("`{text}` is neither true nor false"));
                    Value::Null
                }
            },
            _ if is_word(field) => lower.into(),
            // a prefix may end with a blank on purpose, a placement not
            "add_fields_prefix" | "add_headers_prefix" => entry.value.clone().into(),
            _ => text.into(),
        }
    }
}

/// The outbox router's name for one of its keys.
fn router_option(key: &str) -> Option<&'static str> {
    match keys::find(key)?.status(Mode::Outbox) {
        Status::Works(How::Router(field), _) => Some(field),
        _ => None,
    }
}

/// Options of transforms that are one of some words.
pub(super) fn is_word(field: &str) -> bool {
    const WORDS: [&str; 6] =
        ["deletes", "missing_column", "on_update", "json_null", "json_empty_array", "field_name_adjustment"];
    WORDS.contains(&field)
}
