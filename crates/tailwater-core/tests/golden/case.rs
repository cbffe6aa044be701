//! A recorded case: its configuration, its stream of `pgoutput` messages, and what came out.

use crate::settings::Settings;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tailwater_core::change::ColumnCatalog;
use tailwater_core::pgoutput::{Assembled, Assembler};
use tailwater_core::route::{Route, Routed};
use tailwater_core::{Change, Event, Message, Relation};

pub struct Case {
    pub name: String,
    pub config: serde_json::Map<String, Json>,
    pub recorded: Json,
    stream: Vec<(u64, Bytes)>,
}

/// What a route made of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    pub messages: Vec<Message>,
    /// Why a change was rejected, one reason each.
    pub rejected: Vec<String>,
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

    /// Feeds the whole stream to the route; it is never stopped by a bad event.
    pub fn run(&self, settings: &Settings, route: &mut dyn Route) -> Outcome {
        let mut outcome = Outcome::default();
        for change in self.changes() {
            if !settings.captures(&change) {
                continue;
            }
            match route.apply(&change) {
                Routed::Message(message) => outcome.messages.push(message),
                Routed::Messages(more) => {
                    assert!(!more.is_empty(), "{}: nothing vanishes without a name", self.name);
                    outcome.messages.extend(more);
                }
                Routed::Filtered(rule) => assert!(!rule.is_empty(), "{}: a filtered change has a rule", self.name),
                Routed::Rejected { reason, raw } => {
                    assert!(!reason.is_empty(), "{}: a rejection says why", self.name);
                    let raw = raw.payload.unwrap_or_default();
                    assert!(
                        !raw.is_empty() || matches!(change.event, Event::Message(_)),
                        "{}: it keeps the event",
                        self.name
                    );
                    outcome.rejected.push(reason);
                }
            }
        }
        outcome
    }

    pub fn changes(&self) -> Vec<Change> {
        let mut assembler = Assembler::new(1);
        let mut changes = Vec::new();
        let mut described: HashMap<u32, usize> = HashMap::new();
        for (lsn, body) in &self.stream {
            match assembler.apply(*lsn, body.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.name)) {
                Assembled::Relation(relation) => {
                    let times = described.entry(relation.oid).or_insert(0);
                    assembler.describe(Arc::new(self.with_catalog(&relation, *times)));
                    *times += 1;
                }
                Assembled::Change(change) => changes.push(change),
                Assembled::Changes(more) => changes.extend(more),
                Assembled::Nothing | Assembled::Commit(_) => {}
            }
        }
        assert!(!changes.iter().any(|change| matches!(change.event, Event::Undecodable { .. })), "{}", self.name);
        changes
    }

    /// Adds what only the catalog knows, from an entry that has the same columns: the one after so many descriptions of the
    /// table if there is one, since a table is described again when it was altered.
    fn with_catalog(&self, relation: &Relation, times: usize) -> Relation {
        let mut relation = relation.clone();
        let entries: Vec<&Json> = self.recorded["catalog"].as_array().into_iter().flatten().collect();
        let later = entries.iter().skip(times.min(entries.len().saturating_sub(1)));
        let same = |table: &&Json| {
            let columns = table["columns"].as_array().into_iter().flatten();
            let columns = columns.filter(|column| column["generated"] != "s");
            table["schema"] == *relation.schema
                && table["table"] == *relation.name
                && columns.map(|c| c["name"].as_str().unwrap()).eq(relation.columns.iter().map(|c| &*c.name))
        };
        let found = later
            .chain(&entries)
            .find_map(|entry| entry["tables"].as_array().into_iter().flatten().find(same).map(|table| (*entry, table)));
        let Some((entry, table)) = found else { return relation };
        let primary: Vec<&str> = strings(&table["primary_key"]);
        for column in &mut relation.columns {
            let known =
                table["columns"].as_array().unwrap().iter().find(|known| known["name"] == *column.name).unwrap();
            column.catalog = Some(facts(entry, known, &primary));
        }
        relation
    }
}

fn strings(list: &Json) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

fn facts(entry: &Json, known: &Json, primary: &[&str]) -> ColumnCatalog {
    let type_of = |oid: &Json| entry["types"].as_array().into_iter().flatten().find(|other| other["oid"] == *oid);
    let number = |value: &Json| value.as_u64().filter(|number| *number > 0).map(|number| number as u32);
    let mut at = type_of(&known["type_oid"]);
    let mut base = None;
    while let Some(domain) = at.filter(|at| at["typtype"] == "d") {
        base = number(&domain["base_oid"]).map(|oid| (oid, domain["typmod"].as_i64().unwrap_or(-1) as i32));
        at = type_of(&domain["base_oid"]);
    }
    let element = at.filter(|at| at["category"] == "A").and_then(|at| number(&at["element_oid"]));
    let labelled = element.and_then(|oid| type_of(&oid.into())).or(at);
    let labels = labelled.map(|of| strings(&of["labels"])).filter(|labels| !labels.is_empty());
    ColumnCatalog {
        not_null: known["not_null"] == true,
        default: known["default"].as_str().map(Into::into),
        type_name: known["type"].as_str().unwrap_or_default().into(),
        primary_key: primary.iter().position(|name| known["name"] == **name).map(|place| place as u32 + 1),
        base_type: base,
        element_type: element,
        enum_labels: labels.map(|labels| labels.into_iter().map(Into::into).collect()),
    }
}
