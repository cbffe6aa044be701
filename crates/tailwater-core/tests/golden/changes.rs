//! Cases of plain change events: properties → options, the stream → records, and what is refused by name.

use crate::Verdict;
use crate::case::Case;
use crate::compare;
use fancy_regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tailwater_core::encode::connect::{Converter, Converters};
use tailwater_core::route::{Compatibility, Format, Route, Routed};
use tailwater_core::transform::changes::{ChangeOptions, ChangeRoute, ChangeRouter, ChangeSettings};
use tailwater_core::transform::outbox::ContextHeaders;
use tailwater_core::{Change, Event};

struct Settings {
    options: ChangeOptions,
    key: Converter,
    value: Converter,
    partitions: u32,
    tables: Vec<(&'static str, bool, Vec<Regex>)>,
}

/// The source's part of the configuration, and what means nothing to a router.
const ELSEWHERE: [&str; 12] = [
    "publication.autocreate.mode",
    "publication.name",
    "publish.via.partition.root",
    "schema.refresh.mode",
    "snapshot.mode",
    "event.converting.failure.handling.mode",
    "topic.creation.default.replication.factor",
    "key.converter.schemas.enable",
    "value.converter.schemas.enable",
    "value.converter.replace.null.with.default",
    "tasks.max",
    "slot.name",
];

pub fn verdict(case: &Case) -> Verdict {
    let settings = match settings(case) {
        Ok(settings) => settings,
        // Debezium refuses it as well.
        Err(_) if case.recorded["status"] == "failed" => return Verdict::Same,
        Err(property) => return Verdict::Refused(property),
    };
    match run(case, &settings) {
        Ok(()) => Verdict::Same,
        Err(difference) => Verdict::Different(difference),
    }
}

fn run(case: &Case, settings: &Settings) -> Result<(), String> {
    let surroundings = ChangeSettings {
        compatibility: Compatibility::Strict,
        topic_prefix: case.name.clone(),
        database: case.name.clone(),
        context_headers: Some(ContextHeaders { run_id: "volatile".into(), ..ContextHeaders::default() }),
    };
    let header = Converter::new(Format::Plain);
    let router = ChangeRouter::new(&settings.options, &surroundings).map_err(|error| error.to_string())?;
    let mut route = ChangeRoute::new(router, Converters { key: settings.key, value: settings.value, header });
    let (mut messages, mut reasons) = (Vec::new(), Vec::new());
    for change in case.changes() {
        if !captures(settings, &change) {
            continue;
        }
        match route.apply(&change) {
            Routed::Message(message) => messages.push(message),
            Routed::Messages(more) => messages.extend(more),
            Routed::Filtered(_) => {}
            Routed::Rejected { reason, .. } => reasons.push(reason),
        }
    }
    let failed = case.recorded["status"] == "failed";
    match reasons.first() {
        Some(reason) if !failed => return Err(format!("rejected: {reason}")),
        None if failed => return Err("Debezium failed on an event that is not rejected here".into()),
        _ => {}
    }
    let mut ids: Vec<&str> = messages.iter().map(|message| &*message.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), messages.len(), "{}: every record has an id of its own", case.name);
    compare::kafka(case, settings.partitions, &messages, failed)
}

fn captures(settings: &Settings, change: &Change) -> bool {
    let relation = match &change.event {
        Event::Row(row) => &row.relation,
        Event::Truncate { relation, .. } => relation,
        Event::Message(_) | Event::Undecodable { .. } => return true,
    };
    settings.tables.iter().all(|(kind, include, patterns)| {
        let table = format!("{}.{}", relation.schema, relation.name);
        let name = if *kind == "schema" { &*relation.schema } else { &table };
        patterns.iter().any(|pattern| pattern.is_match(name).unwrap()) == *include
    })
}

fn settings(case: &Case) -> Result<Settings, String> {
    let json = Converter::new(Format::Json);
    let mut settings =
        Settings { options: ChangeOptions::default(), key: json, value: json, partitions: 1, tables: Vec::new() };
    for (name, value) in &case.config {
        let refused = || format!("{name}={}", value.as_str().unwrap_or("null"));
        let value = value.as_str().ok_or_else(refused)?;
        option(&mut settings, name, value).ok_or_else(refused)?;
    }
    settings.key.schemas = case.config.get("key.converter.schemas.enable").is_some_and(|value| value == "true");
    settings.value.schemas = case.config.get("value.converter.schemas.enable").is_some_and(|value| value == "true");
    settings.value.replace_null =
        case.config.get("value.converter.replace.null.with.default").is_none_or(|value| value != "false");
    let both = |kind: &str| settings.tables.iter().filter(|(other, ..)| *other == kind).count() > 1;
    if both("table") || both("schema") { Err("include and exclude".into()) } else { Ok(settings) }
}

/// `None`: not offered.
fn option(settings: &mut Settings, name: &str, value: &str) -> Option<()> {
    let options = &mut settings.options;
    let text = || Some(value.to_owned());
    match name {
        "decimal.handling.mode" => options.decimal = mode(value)?,
        "time.precision.mode" => options.time = mode(value)?,
        "binary.handling.mode" => options.binary = mode(value)?,
        "interval.handling.mode" => options.interval = mode(value)?,
        "hstore.handling.mode" => options.hstore = mode(value)?,
        "money.fraction.digits" => options.money_fraction_digits = value.parse().ok()?,
        "tombstones.on.delete" => options.tombstones_on_delete = value == "true",
        "skipped.operations" => options.skipped_operations = value.into(),
        "unavailable.value.placeholder" => options.unavailable_value = value.into(),
        "column.include.list" => options.column_include = text(),
        "column.exclude.list" => options.column_exclude = text(),
        "message.key.columns" => options.message_key_columns = text(),
        "message.prefix.include.list" => options.message_prefix_include = text(),
        "message.prefix.exclude.list" => options.message_prefix_exclude = text(),
        "topic.delimiter" => options.topic_delimiter = value.into(),
        "skip.messages.without.change" => options.skip_unchanged = value == "true",
        "topic.creation.default.partitions" => settings.partitions = value.parse().ok()?,
        "key.converter" | "value.converter" if value.ends_with(".JsonConverter") => {}
        "table.include.list" => settings.tables.push(("table", true, patterns(value))),
        "table.exclude.list" => settings.tables.push(("table", false, patterns(value))),
        "schema.include.list" => settings.tables.push(("schema", true, patterns(value))),
        "schema.exclude.list" => settings.tables.push(("schema", false, patterns(value))),
        _ if ELSEWHERE.contains(&name) => {}
        _ => return None,
    }
    Some(())
}

fn mode<T: DeserializeOwned>(value: &str) -> Option<T> {
    serde_json::from_value(Json::String(value.into())).ok()
}

fn patterns(list: &str) -> Vec<Regex> {
    list.split(',').map(|item| Regex::new(&format!("(?i)^(?:{item})$")).unwrap()).collect()
}
