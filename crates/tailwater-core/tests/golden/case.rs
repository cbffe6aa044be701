//! A recorded case: its configuration, its stream of `pgoutput` messages, and what came out.

use crate::settings::Settings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value as Json;
use std::path::Path;
use std::sync::Arc;
use tailwater_core::change::ColumnCatalog;
use tailwater_core::pgoutput::{Assembled, Assembler};
use tailwater_core::route::{Route, Routed};
use tailwater_core::transform::outbox::OutboxRouter;
use tailwater_core::{Change, Event, Message, Relation};

pub struct Case {
    pub name: String,
    pub config: serde_json::Map<String, Json>,
    pub recorded: Json,
    stream: Vec<(u64, Bytes)>,
}

/// What the router made of a case.
pub enum Outcome {
    /// The configuration was refused before anything was read.
    Refused,
    Routed {
        messages: Vec<Message>,
        rejected: usize,
        changes: usize,
        filtered: usize,
    },
}

impl Case {
    pub fn all(folder: &Path) -> Vec<Case> {
        let mut names: Vec<String> = std::fs::read_dir(folder.join("cases"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.into_iter().map(|name| Case::load(folder, name)).collect()
    }

    fn load(folder: &Path, name: String) -> Case {
        let json = |part: &str| -> Json {
            serde_json::from_slice(&std::fs::read(folder.join(part).join(format!("{name}.json"))).unwrap()).unwrap()
        };
        let Json::Object(mut case) = json("cases") else { panic!("{name} is no object") };
        let Some(Json::Object(config)) = case.remove("config") else { panic!("{name} has no configuration") };
        // A case that failed at the start has no stream.
        let stream = std::fs::read_to_string(folder.join("stream").join(format!("{name}.jsonl"))).unwrap_or_default();
        let message = |line: &str| {
            let line: Json = serde_json::from_str(line).unwrap();
            (line["lsn"].as_u64().unwrap(), BASE64.decode(line["data"].as_str().unwrap()).unwrap().into())
        };
        Case { recorded: json("records"), stream: stream.lines().map(message).collect(), config, name }
    }

    /// Feeds the whole stream to the router; it is never stopped by a bad event.
    pub fn run(&self, settings: Settings) -> Result<Outcome, String> {
        let Ok(mut router) = OutboxRouter::new(&settings.options, settings.route.clone()) else {
            return Ok(Outcome::Refused);
        };
        let (mut messages, mut rejected, mut changes, mut filtered) = (Vec::new(), 0, 0, 0);
        for change in self.changes() {
            if !settings.captures(&change) {
                continue;
            }
            changes += 1;
            match router.apply(&change) {
                Routed::Message(message) => messages.push(message),
                Routed::Messages(more) => messages.extend(more),
                Routed::Filtered(_) => filtered += 1,
                Routed::Rejected { reason, raw } => {
                    assert!(!reason.is_empty(), "{}: a rejection says why", self.name);
                    assert!(
                        raw.payload.is_some_and(|raw| !raw.is_empty()),
                        "{}: a rejection keeps the event",
                        self.name
                    );
                    rejected += 1;
                }
            }
        }
        Ok(Outcome::Routed { messages, rejected, changes, filtered })
    }

    fn changes(&self) -> Vec<Change> {
        let mut assembler = Assembler::new(1);
        let mut changes = Vec::new();
        for (lsn, body) in &self.stream {
            match assembler.apply(*lsn, body.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name)) {
                Assembled::Relation(relation) => assembler.describe(Arc::new(self.with_catalog(&relation))),
                Assembled::Change(change) => changes.push(change),
                Assembled::Changes(more) => changes.extend(more),
                Assembled::Nothing | Assembled::Commit(_) => {}
            }
        }
        assert!(!changes.iter().any(|change| matches!(change.event, Event::Undecodable { .. })), "{}", self.name);
        changes
    }

    /// Adds what only the catalog knows, from the entry that has the same columns.
    fn with_catalog(&self, relation: &Relation) -> Relation {
        let mut relation = relation.clone();
        let entries = self.recorded["catalog"].as_array().into_iter().flatten();
        let tables = entries.flat_map(|entry| entry["tables"].as_array().into_iter().flatten());
        let same = |table: &&Json| {
            let columns = table["columns"].as_array().into_iter().flatten();
            table["schema"] == *relation.schema
                && table["table"] == *relation.name
                && columns.map(|c| c["name"].as_str().unwrap()).eq(relation.columns.iter().map(|c| &*c.name))
        };
        if let Some(table) = tables.into_iter().find(same) {
            for (column, known) in relation.columns.iter_mut().zip(table["columns"].as_array().unwrap()) {
                column.catalog = Some(ColumnCatalog {
                    not_null: known["not_null"] == true,
                    default: known["default"].as_str().map(Into::into),
                    type_name: known["type"].as_str().unwrap_or_default().into(),
                    ..ColumnCatalog::default()
                });
            }
        }
        relation
    }
}
