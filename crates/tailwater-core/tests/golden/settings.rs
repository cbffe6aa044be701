//! A case's connector properties → the router's options. A property that has no counterpart makes the case different.

use crate::case::Case;
use fancy_regex::Regex;
use tailwater_core::route::{Compatibility, Format};
use tailwater_core::transform::outbox::{
    ContextHeaders, FieldNameAdjustment, JsonEmptyArray, JsonNull, MissingColumn, OnUpdate, OutboxOptions,
    RouteSettings,
};
use tailwater_core::{Change, Event};

#[derive(Clone)]
pub struct Settings {
    pub options: OutboxOptions,
    pub route: RouteSettings,
    /// The connector's own filter, before any transformation.
    tables: Option<String>,
    pub partitions: u32,
    /// Debezium skipped bad events silently.
    pub tolerant: bool,
    /// Sink of RabbitMQ: body for a null value.
    pub null_value: String,
    pub routing_key_is_key: bool,
}

impl Settings {
    pub fn captures(&self, change: &Change) -> bool {
        let relation = match &change.event {
            Event::Row(row) => &row.relation,
            Event::Truncate { relation, .. } => relation,
            Event::Message(_) | Event::Undecodable { .. } => return true,
        };
        self.tables.as_ref().is_none_or(|pattern| {
            let pattern = Regex::new(&format!("^(?:{pattern})$")).unwrap();
            pattern.is_match(&format!("{}.{}", relation.schema, relation.name)).unwrap()
        })
    }
}

pub fn of(case: &Case) -> Result<Settings, String> {
    let mut settings = Settings {
        options: OutboxOptions::default(),
        route: RouteSettings {
            compatibility: Compatibility::Strict,
            key_format: Format::Json,
            value_format: Format::Json,
            header_format: if case.name.starts_with("c_") { Format::Json } else { Format::Plain },
            topic_prefix: case.name.clone(),
            context_headers: Some(ContextHeaders { run_id: "volatile".into(), ..ContextHeaders::default() }),
            ..RouteSettings::default()
        },
        tables: None,
        partitions: 1,
        tolerant: false,
        null_value: "default".into(),
        routing_key_is_key: false,
    };
    for (name, value) in &case.config {
        let value = value.as_str().unwrap_or_default().replace("@case@", &case.name);
        let name = name.strip_prefix("debezium.").unwrap_or(name);
        let name = name.strip_prefix("source.").unwrap_or(name);
        match name.strip_prefix("transforms.outbox.") {
            Some(option) => router_option(&mut settings, option, value)?,
            None => other(&mut settings, name, &value)?,
        }
    }
    Ok(settings)
}

fn router_option(settings: &mut Settings, option: &str, value: String) -> Result<(), String> {
    let options = &mut settings.options;
    match option {
        "table.field.event.id" => options.id_column = Some(value),
        "table.field.event.key" => options.key_column = value,
        "table.field.event.type" => options.type_column = value,
        "table.field.event.payload" => options.payload_column = value,
        "table.field.event.timestamp" => options.timestamp_column = Some(value),
        "table.field.event.schema.version" => options.schema_version_column = Some(value),
        "table.fields.additional.placement" => options.placement = Some(value),
        "table.field.additional.missing" => {
            options.missing_column = if value == "ignore" { MissingColumn::Ignore } else { MissingColumn::Error };
        }
        "table.op.invalid.behavior" => {
            options.on_update = match value.as_str() {
                "warn" => OnUpdate::Warn,
                "error" => OnUpdate::Error,
                "fatal" => OnUpdate::Fatal,
                // Refused by the configuration; here an option that the router refuses stands in.
                _ => return refuse(settings),
            };
        }
        "table.expand.json.payload" => options.expand_json = value == "true",
        "table.json.payload.null.behavior" if value == "optional_bytes" => options.json_null = JsonNull::OptionalBytes,
        "table.json.payload.empty.array.behavior" if value == "optional_string" => {
            options.json_empty_array = JsonEmptyArray::OptionalString;
        }
        "route.by.field" => options.route_by = value,
        "route.topic.regex" => options.topic_regex = value,
        "route.topic.replacement" => options.topic_replacement = value,
        "route.tombstone.on.empty.payload" => options.tombstone_on_empty = value == "true",
        "field.name.adjustment.mode" => {
            options.field_name_adjustment = match value.as_str() {
                "avro" => FieldNameAdjustment::Avro,
                "avro_unicode" => FieldNameAdjustment::AvroUnicode,
                _ => FieldNameAdjustment::None,
            };
        }
        "negate" => settings.route.negate = value == "true",
        "type" | "predicate" => {}
        // Active only with a library on Debezium's class path, which the recording did not have.
        "tracing.span.context.field" | "tracing.operation.name" | "tracing.with.context.field.only" => {}
        _ => return Err(format!("router option {option}={value} is not offered")),
    }
    Ok(())
}

fn refuse(settings: &mut Settings) -> Result<(), String> {
    settings.options.key_column = String::new();
    Ok(())
}

fn other(settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
    let route = &mut settings.route;
    match name {
        "key.converter" | "format.key" => route.key_format = format(value)?,
        "value.converter" | "format.value" => route.value_format = format(value)?,
        "header.converter" => route.header_format = format(value)?,
        "predicates.isOutbox.pattern" => route.only_topics = Some(value.to_owned()),
        "predicates.isOutbox.type" if value.ends_with(".TopicNameMatches") => {}
        "extended.headers.enabled" => route.context_headers = route.context_headers.take().filter(|_| value == "true"),
        "table.include.list" => settings.tables = Some(value.to_owned()),
        "errors.tolerance" => settings.tolerant = value == "all",
        "topic.creation.default.partitions" => settings.partitions = value.parse().unwrap(),
        "sink.rabbitmq.null.value" => settings.null_value = value.to_owned(),
        "sink.rabbitmq.routingKey.source" => settings.routing_key_is_key = value == "key",
        "skipped.operations" | "transforms" | "predicates" | "publication.autocreate.mode" | "publication.name" => {}
        "topic.creation.default.replication.factor" | "producer.override.max.request.size" => {}
        "sink.rabbitmq.exchange" | "heartbeat.action.query" | "heartbeat.interval.ms" => {}
        "provide.transaction.metadata" => {}
        // BinaryDataConverter's delegate and JsonConverter's defaults: nothing in the cases depends on them.
        "value.converter.delegate.converter.type" | "value.converter.replace.null.with.default" => {}
        _ if name.ends_with("schemas.enable") || name.ends_with("converter.type.schemas.enable") => {}
        _ => return Err(format!("property {name}={value} is not offered")),
    }
    Ok(())
}

fn format(name: &str) -> Result<Format, String> {
    match name.rsplit('.').next().unwrap_or_default() {
        "JsonConverter" | "json" => Ok(Format::Json),
        "StringConverter" | "simplestring" => Ok(Format::String),
        "BinaryDataConverter" | "ByteArrayConverter" | "binary" => Ok(Format::Binary),
        _ => Err(format!("converter {name} is not offered")),
    }
}
