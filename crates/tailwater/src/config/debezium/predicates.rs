//! The predicate of a transform: for an outbox and for a link of a chain alike.

use super::Mapper;
use super::transforms::{LIST, names};

const PREDICATES: &str = "org.apache.kafka.connect.transforms.predicates.";

/// A predicate of the file, complete.
pub(super) struct Predicate {
    /// What it is called here.
    pub kind: &'static str,
    /// Key and value of its one option, where it has one.
    pub option: Option<(String, String)>,
    /// The key that turns it round.
    pub negate: String,
}

impl Mapper<'_> {
    /// The predicate of transform `alias`. `None`: it has none, or what is wrong with it was said.
    pub(super) fn predicate(&mut self, alias: &str) -> Option<Predicate> {
        let (by, negate) = (format!("{LIST}.{alias}.predicate"), format!("{LIST}.{alias}.negate"));
        let Some(name) = self.value(&by).map(str::to_owned) else {
            if self.is_true(&negate) {
                self.problem(&negate, "there is no predicate to turn round");
            }
            return None;
        };
        if !names(self.value("debezium.predicates")).contains(&name) {
            self.problem(&by, format!("predicate `{name}` is not in debezium.predicates"));
            return None;
        }
        let class_key = format!("debezium.predicates.{name}.type");
        let class = self.value(&class_key).unwrap_or_default().to_owned();
        let (option, kind) = match class.strip_prefix(PREDICATES) {
            Some("TopicNameMatches") => ("pattern", "topic_name_matches"),
            Some("HasHeaderKey") => ("name", "has_header_key"),
            Some("RecordIsTombstone") => return Some(Predicate { kind: "record_is_tombstone", option: None, negate }),
            _ if class.is_empty() => {
                self.problem(&class_key, "is missing: write the predicate's class");
                return None;
            }
            _ => {
                let text = format!(
                    "predicate `{class}` is not part of this version: known are TopicNameMatches, HasHeaderKey and RecordIsTombstone of {PREDICATES}"
                );
                self.problem(&class_key, text);
                return None;
            }
        };
        let key = format!("debezium.predicates.{name}.{option}");
        let Some(value) = self.value(&key).map(str::to_owned) else {
            self.problem(&key, format!("is missing: {class} needs it"));
            return None;
        };
        Some(Predicate { kind, option: Some((key, value)), negate })
    }

    /// Whether the router alone has a predicate that an outbox can have: over topics, with one table to read.
    pub(super) fn is_plain_predicate(&self, alias: &str) -> bool {
        let Some(name) = self.value(&format!("{LIST}.{alias}.predicate")) else { return true };
        let class = self.value(&format!("debezium.predicates.{name}.type")).unwrap_or_default();
        let tables = self.value("debezium.source.table.include.list");
        class.strip_prefix(PREDICATES).is_none_or(|class| class == "TopicNameMatches")
            && tables.is_none_or(|list| super::tables::literal(list).is_some())
    }
}
