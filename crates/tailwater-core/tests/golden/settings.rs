//! A case's connector properties → the parts of a route, for all kinds of cases. A property without a counterpart is refused.

use crate::case::Case;
use fancy_regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use tailwater_core::encode::connect::{Converter, Converters};
use tailwater_core::route::{Compatibility, Format, Route};
use tailwater_core::transform::chain::{
    ChainConfigError, ChainRoute, Link, Predicate, RegexRouterOptions, Transform, UnwrapOptions, outbox_alone,
};
use tailwater_core::transform::changes::{ChangeOptions, ChangeSettings};
use tailwater_core::transform::outbox::{
    ContextHeaders, FieldNameAdjustment, JsonEmptyArray, JsonNull, MissingColumn, OnUpdate, OutboxOptions,
    OutboxRouter, RouteSettings,
};
use tailwater_core::{Change, Event};

/// The source's or the sink's part of the configuration, and what means nothing to a route.
const ELSEWHERE: [&str; 19] = [
    "publication.autocreate.mode",
    "publication.name",
    "publish.via.partition.root",
    "schema.refresh.mode",
    "snapshot.mode",
    "event.converting.failure.handling.mode",
    "topic.creation.default.replication.factor",
    "producer.override.max.request.size",
    "tasks.max",
    "slot.name",
    "transforms",
    "predicates",
    "heartbeat.action.query",
    "heartbeat.interval.ms",
    "sink.rabbitmq.autoCreateRoutingKey",
    "sink.rabbitmq.routingKeyDurable",
    // The sink always asks for persistence: the property is said to be ignored.
    "sink.rabbitmq.deliveryMode",
    // What is not bytes goes through the delegate: no case has it.
    "value.converter.delegate.converter.type",
    "value.converter.delegate.converter.type.schemas.enable",
];

pub struct Settings {
    changes: ChangeOptions,
    links: Vec<Link>,
    converters: Converters,
    context_headers: bool,
    version: Option<String>,
    /// The connector's own filters, before any transformation: kind, whether to include, patterns.
    tables: Vec<(&'static str, bool, Vec<Regex>)>,
    pub partitions: u32,
    /// Debezium skipped bad events silently.
    pub tolerant: bool,
    pub rabbitmq: RabbitMq,
}

/// What the sink of RabbitMQ does with a message.
pub struct RabbitMq {
    /// Body for a null value.
    pub null_value: String,
    /// `None`: the topic.
    pub exchange: Option<String>,
    pub source: RoutingKey,
    pub routing_key: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum RoutingKey {
    Static,
    Topic,
    Key,
}

impl Settings {
    pub fn captures(&self, change: &Change) -> bool {
        let relation = match &change.event {
            Event::Row(row) => &row.relation,
            Event::Truncate { relation, .. } => relation,
            Event::Message(_) | Event::Undecodable { .. } => return true,
        };
        self.tables.iter().all(|(kind, include, patterns)| {
            let table = format!("{}.{}", relation.schema, relation.name);
            let name = if *kind == "schema" { &*relation.schema } else { &table };
            patterns.iter().any(|pattern| pattern.is_match(name).unwrap()) == *include
        })
    }

    pub fn chain(&self, case: &Case) -> Result<ChainRoute, ChainConfigError> {
        let settings = ChangeSettings {
            compatibility: Compatibility::Strict,
            topic_prefix: case.name.clone(),
            database: case.name.clone(),
            version: self.version.clone(),
            context_headers: self.context(),
        };
        ChainRoute::new(&self.links, &self.changes, &settings, self.converters)
    }

    /// The outbox router without a chain, where that is all there is: it must give the same.
    pub fn direct(&self, case: &Case) -> Option<Box<dyn Route>> {
        let options = outbox_alone(&self.links, &self.changes, &self.converters)?;
        // Alone it rejects them, and says which transform takes them.
        if case.changes().iter().any(|change| matches!(change.event, Event::Message(_))) {
            return None;
        }
        let Converters { key, value, header } = self.converters;
        let settings = RouteSettings {
            compatibility: Compatibility::Strict,
            key_format: key.format,
            value_format: value.format,
            header_format: header.format,
            topic_prefix: case.name.clone(),
            context_headers: self.context(),
            ..RouteSettings::default()
        };
        OutboxRouter::new(options, settings).ok().map(|router| Box::new(router) as Box<dyn Route>)
    }

    fn context(&self) -> Option<ContextHeaders> {
        self.context_headers.then(|| ContextHeaders { run_id: "volatile".into(), ..ContextHeaders::default() })
    }
}

/// Properties by their names without Debezium Server's prefixes. An error is the property that is not offered.
pub fn of(case: &Case) -> Result<Settings, String> {
    let server = case.name.starts_with("c_");
    let converter = |format| Converter { schemas: server, ..Converter::new(format) };
    let mut settings = Settings {
        changes: ChangeOptions::default(),
        links: Vec::new(),
        converters: Converters {
            key: converter(Format::Json),
            value: converter(Format::Json),
            header: converter(if server { Format::Json } else { Format::Plain }),
        },
        context_headers: true,
        version: server.then(|| "3.6.0.Final".into()),
        tables: Vec::new(),
        partitions: 1,
        tolerant: false,
        rabbitmq: RabbitMq {
            null_value: "default".into(),
            exchange: None,
            source: RoutingKey::Static,
            routing_key: String::new(),
        },
    };
    let mut properties = BTreeMap::new();
    for (name, value) in &case.config {
        let value = value.as_str().ok_or_else(|| format!("{name}=null"))?.replace("@case@", &case.name);
        let name = name.strip_prefix("debezium.").unwrap_or(name);
        properties.insert(name.strip_prefix("source.").unwrap_or(name).to_owned(), value);
    }
    for (name, value) in &properties {
        if name.starts_with("transforms.") || name.starts_with("predicates.") || is_converter(name) {
            continue;
        }
        option(&mut settings, name, value).ok_or_else(|| format!("{name}={value}"))?;
    }
    converters(&mut settings, &properties, server)?;
    let names = properties.get("transforms").map(String::as_str).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        settings.links.push(link(&properties, name)?);
    }
    let both = |kind: &str| settings.tables.iter().filter(|(other, ..)| *other == kind).count() > 1;
    if both("table") || both("schema") { Err("include and exclude".into()) } else { Ok(settings) }
}

fn is_converter(name: &str) -> bool {
    ["key.converter", "value.converter", "header.converter", "format."].iter().any(|of| name.starts_with(of))
}

/// Formats, and whether they have schemas: always, if the converter is named and nothing else is said.
fn converters(settings: &mut Settings, properties: &BTreeMap<String, String>, server: bool) -> Result<(), String> {
    let Converters { key, value, header } = &mut settings.converters;
    for (part, converter) in [("key", key), ("value", value), ("header", header)] {
        let prefix = if server { format!("format.{part}") } else { format!("{part}.converter") };
        let named = properties.get(&prefix);
        if let Some(name) = named {
            let known = format(name).filter(|_| part != "header" || !server || name.starts_with("json"));
            converter.format = known.ok_or_else(|| format!("{prefix}={name}"))?;
        }
        let schemas = properties
            .get(&format!("{prefix}.schemas.enable"))
            .or_else(|| properties.get("format.schemas.enable").filter(|_| server));
        let by_default = server || named.is_some();
        converter.schemas = converter.format == Format::Json && schemas.map_or(by_default, |value| value == "true");
        converter.replace_null =
            properties.get(&format!("{prefix}.replace.null.with.default")).is_none_or(|v| v == "true");
    }
    Ok(())
}

fn format(name: &str) -> Option<Format> {
    match name.rsplit('.').next()? {
        // The same text, handed to the sink as bytes.
        "JsonConverter" | "json" | "jsonbytearray" => Some(Format::Json),
        "StringConverter" | "simplestring" => Some(Format::String),
        "BinaryDataConverter" | "ByteArrayConverter" | "binary" => Some(Format::Binary),
        _ => None,
    }
}

fn link(properties: &BTreeMap<String, String>, name: &str) -> Result<Link, String> {
    let prefix = format!("transforms.{name}.");
    let of = |option: &str| properties.get(&format!("{prefix}{option}"));
    let refused = |option: &str| format!("{prefix}{option}={}", of(option).map_or("", String::as_str));
    let mut transform = match of("type").and_then(|class| class.rsplit('.').next()) {
        Some("EventRouter") => Transform::EventRouter(OutboxOptions::default()),
        Some("ExtractNewRecordState") => Transform::ExtractNewRecordState(UnwrapOptions::default()),
        Some("RegexRouter") => {
            let text = |option| of(option).cloned().unwrap_or_default();
            Transform::RegexRouter(RegexRouterOptions { regex: text("regex"), replacement: text("replacement") })
        }
        Some("DecodeLogicalDecodingMessageContent") => {
            Transform::DecodeLogicalDecodingMessageContent(Default::default())
        }
        _ => return Err(format!("transforms.*.type={}", of("type").map_or("", String::as_str))),
    };
    let mut negate = false;
    for (property, value) in properties.range(prefix.clone()..) {
        let Some(option) = property.strip_prefix(&prefix) else { break };
        match option {
            "type" | "predicate" => continue,
            "negate" => {
                negate = value == "true";
                continue;
            }
            _ => {}
        }
        let taken = match &mut transform {
            Transform::EventRouter(options) => router_option(options, option, value),
            Transform::ExtractNewRecordState(options) => unwrap_option(options, option, value),
            Transform::RegexRouter(_) => Some(()),
            Transform::DecodeLogicalDecodingMessageContent(options) => (option == "fields.null.include").then(|| {
                options.include_nulls = value == "true";
            }),
        };
        taken.ok_or_else(|| refused(option))?;
    }
    let predicate = of("predicate").map(|name| predicate(properties, name)).transpose()?;
    Ok(Link { transform, predicate, negate })
}

fn predicate(properties: &BTreeMap<String, String>, name: &str) -> Result<Predicate, String> {
    let of = |option: &str| properties.get(&format!("predicates.{name}.{option}")).cloned();
    match of("type").as_deref().and_then(|class| class.rsplit('.').next()) {
        Some("TopicNameMatches") => Ok(Predicate::TopicNameMatches(of("pattern").unwrap_or_default())),
        Some("HasHeaderKey") => Ok(Predicate::HasHeaderKey(of("name").unwrap_or_default())),
        Some("RecordIsTombstone") => Ok(Predicate::RecordIsTombstone),
        other => Err(format!("predicates.*.type={}", other.unwrap_or_default())),
    }
}

fn router_option(options: &mut OutboxOptions, option: &str, value: &str) -> Option<()> {
    let text = || value.to_owned();
    match option {
        "table.field.event.id" => options.id_column = Some(text()),
        "table.field.event.key" => options.key_column = text(),
        "table.field.event.type" => options.type_column = text(),
        "table.field.event.payload" => options.payload_column = text(),
        "table.field.event.timestamp" => options.timestamp_column = Some(text()),
        "table.field.event.schema.version" => options.schema_version_column = Some(text()),
        "table.fields.additional.placement" => options.placement = Some(text()),
        "table.field.additional.missing" => {
            options.missing_column = if value == "ignore" { MissingColumn::Ignore } else { MissingColumn::Error };
        }
        "table.op.invalid.behavior" => options.on_update = mode::<OnUpdate>(value)?,
        "table.expand.json.payload" => options.expand_json = value == "true",
        "table.json.payload.null.behavior" => options.json_null = mode::<JsonNull>(value)?,
        "table.json.payload.empty.array.behavior" => options.json_empty_array = mode::<JsonEmptyArray>(value)?,
        "route.by.field" => options.route_by = text(),
        "route.topic.regex" => options.topic_regex = text(),
        "route.topic.replacement" => options.topic_replacement = text(),
        "route.tombstone.on.empty.payload" => options.tombstone_on_empty = value == "true",
        "field.name.adjustment.mode" => options.field_name_adjustment = mode::<FieldNameAdjustment>(value)?,
        // Active only with a library on Debezium's class path, which the recording did not have.
        "tracing.span.context.field" | "tracing.operation.name" | "tracing.with.context.field.only" => {}
        _ => return None,
    }
    Some(())
}

fn unwrap_option(options: &mut UnwrapOptions, option: &str, value: &str) -> Option<()> {
    match option {
        "delete.tombstone.handling.mode" => options.deletes = mode(value)?,
        "add.fields" => options.add_fields = Some(value.into()),
        "add.fields.prefix" => options.add_fields_prefix = value.into(),
        "add.headers" => options.add_headers = Some(value.into()),
        "add.headers.prefix" => options.add_headers_prefix = value.into(),
        "route.by.field" => options.route_by = Some(value.into()),
        "replace.null.with.default" => options.replace_null = Some(value == "true"),
        _ => return None,
    }
    Some(())
}

/// `None`: not offered.
fn option(settings: &mut Settings, name: &str, value: &str) -> Option<()> {
    let options = &mut settings.changes;
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
        "extended.headers.enabled" => settings.context_headers = value == "true",
        "errors.tolerance" => settings.tolerant = value == "all",
        "table.include.list" => settings.tables.push(("table", true, patterns(value))),
        "table.exclude.list" => settings.tables.push(("table", false, patterns(value))),
        "schema.include.list" => settings.tables.push(("schema", true, patterns(value))),
        "schema.exclude.list" => settings.tables.push(("schema", false, patterns(value))),
        "sink.rabbitmq.null.value" => settings.rabbitmq.null_value = value.into(),
        "sink.rabbitmq.exchange" => settings.rabbitmq.exchange = text(),
        "sink.rabbitmq.routingKey" => settings.rabbitmq.routing_key = value.into(),
        // As the name says; the list has what it does there.
        "sink.rabbitmq.routingKeyFromTopicName" if value == "true" => settings.rabbitmq.source = RoutingKey::Topic,
        "sink.rabbitmq.routingKey.source" => {
            settings.rabbitmq.source = match value {
                "static" => RoutingKey::Static,
                "topic" => RoutingKey::Topic,
                "key" => RoutingKey::Key,
                _ => return None,
            };
        }
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
