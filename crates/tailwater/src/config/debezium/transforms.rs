//! The transforms of a file: the outbox event router alone, at most behind a `TopicNameMatches` predicate, or a chain.

use super::super::origin::Origin;
use super::Mapper;
use super::chain::is_word;
use super::keys::{self, How, Mode, Status};
use super::predicates::Predicate;

pub(super) const LIST: &str = "debezium.transforms";
pub(super) const ROUTER: &str = "io.debezium.transforms.outbox.EventRouter";

impl Mapper<'_> {
    /// What the file is for, by its transforms: the router alone reads an outbox, everything else change events.
    pub(super) fn mode(&self) -> Mode {
        match &names(self.value(LIST))[..] {
            [alias]
                if self.value(&format!("{LIST}.{alias}.type")) == Some(ROUTER) && self.is_plain_predicate(alias) =>
            {
                Mode::Outbox
            }
            _ => Mode::Changes,
        }
    }

    pub(super) fn transforms(&mut self) {
        let aliases: Vec<String> = names(self.value(LIST));
        let prefix = format!("{LIST}.");
        let lost = self.entries.iter().find(|(key, entry)| key.starts_with(&prefix) && entry.value.trim() == ROUTER);
        if let Some((key, _)) = lost.filter(|_| aliases.is_empty()) {
            let alias = key[prefix.len()..].trim_end_matches(".type");
            let text = format!("is missing, but `{key}` is there: write {LIST}={alias}");
            return self.problem(LIST, text);
        }
        self.strangers(&aliases);
        match (self.mode, &aliases[..]) {
            (Mode::Outbox, [alias]) => {
                self.router(alias);
                self.outbox_predicate(alias);
            }
            _ => self.chain(&aliases),
        }
        for alias in &aliases {
            if self.value(&format!("{LIST}.{alias}.type")) == Some(ROUTER) {
                self.decide_for_router(alias);
            }
        }
    }

    /// Options of a transform that the list does not name.
    fn strangers(&mut self, aliases: &[String]) {
        let prefix = format!("{LIST}.");
        let of_others: Vec<String> = self
            .entries
            .keys()
            .filter(|key| {
                key.strip_prefix(&prefix)
                    .and_then(|rest| rest.split('.').next())
                    .is_some_and(|alias| !aliases.iter().any(|a| a == alias))
            })
            .cloned()
            .collect();
        for key in of_others {
            self.notice(&key, "belongs to no transform that `debezium.transforms` names");
        }
    }

    fn router(&mut self, alias: &str) {
        for (key, entry) in self.below(&format!("{LIST}.{alias}.")) {
            let Some(Status::Works(How::Router(field), _)) = keys::find(&key).map(|key| key.status(Mode::Outbox))
            else {
                continue;
            };
            // booleans and words are taken in capitals too; everything else as it stands
            let word = matches!(field, "expand_json" | "tombstone_on_empty") || is_word(field);
            let text = entry.value.trim();
            let value = if word { text.to_lowercase() } else { text.to_owned() };
            self.set(&format!("route.outbox.{field}"), &value, entry.origin);
        }
        if self.strict && self.value(&format!("{LIST}.{alias}.table.field.event.id")).is_none() {
            self.set("route.outbox.id_column", "id", Origin::Chosen("strict compatibility"));
        }
    }

    fn decide_for_router(&mut self, alias: &str) {
        let prefix = format!("{LIST}.{alias}.");
        if self.strict {
            return;
        }
        let id = format!("{prefix}table.field.event.id");
        if self.value(&id).is_none() {
            let key_column = self.value(&format!("{prefix}table.field.event.key")).unwrap_or("aggregateid").to_owned();
            let text = format!(
                "the id is the column `id`, or `{key_column}` (the key) in a table without one (Debezium: it fails)"
            );
            self.decide(&id, text);
        }
        if self.is_true(&format!("{prefix}route.tombstone.on.empty.payload"))
            && self.value("debezium.sink.rabbitmq.null.value").is_none()
        {
            self.decide(
                "debezium.sink.rabbitmq.null.value",
                "a tombstone's body is empty (Debezium: the word `default`)",
            );
        }
    }

    fn outbox_predicate(&mut self, alias: &str) {
        let Some(Predicate { option: Some((key, pattern)), negate, .. }) = self.predicate(alias) else { return };
        let origin = self.origin(&key);
        self.set("route.only_topics", &pattern, origin);
        if self.value(&negate).is_some() {
            let (value, origin) = (self.is_true(&negate), self.origin(&negate));
            self.set("route.negate", if value { "true" } else { "false" }, origin);
        }
    }
}

pub(super) fn names(list: Option<&str>) -> Vec<String> {
    list.unwrap_or_default().split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}
