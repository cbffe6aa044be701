//! Transforms and predicates.

use super::How::{Mapped, Router};
use super::Status::{Ignored, Refused, Works};
use super::{Key, key};

const TRACING: &str = "tracing headers are not injected in this version (Debezium does so with OpenTelemetry only)";

const UNWRAP: &str = "of `ExtractNewRecordState`";
const OLD: &str = "write delete.tombstone.handling.mode, which replaced it";
const DROPPING: &str = "members cannot be dropped by a header: leave columns out with column.exclude.list";

/// An option of a transform that is not the outbox event router.
const fn of_others(name: &'static str, note: &'static str) -> Key {
    key(name, Ignored("is no option of the outbox event router")).changes(Works(Mapped, note))
}

pub const ROUTER: &[Key] = &[
    key(
        "debezium.transforms",
        Works(
            Mapped,
            "the outbox event router alone; everything else is a chain over change events; absent: change events as they are",
        ),
    ),
    key(
        "debezium.transforms.<n>.type",
        Works(
            Mapped,
            "`EventRouter`, `ExtractNewRecordState`, `RegexRouter`, `DecodeLogicalDecodingMessageContent`, each with its whole name; others are refused by name",
        ),
    ),
    key("debezium.transforms.<n>.predicate", Works(Mapped, "which records the transform sees")),
    key("debezium.transforms.<n>.negate", Works(Mapped, "the predicate turned round")),
    key(
        "debezium.transforms.<n>.table.field.event.id",
        Works(Router("id_column"), "absent: `id`, else the key column's value"),
    ),
    key("debezium.transforms.<n>.table.field.event.key", Works(Router("key_column"), "")),
    key(
        "debezium.transforms.<n>.table.field.event.type",
        Works(Router("type_column"), "also fills the AMQP property `type`"),
    ),
    key("debezium.transforms.<n>.table.field.event.payload", Works(Router("payload_column"), "")),
    key(
        "debezium.transforms.<n>.table.field.event.timestamp",
        Works(Router("timestamp_column"), "fills the AMQP property `timestamp`"),
    ),
    key(
        "debezium.transforms.<n>.table.field.event.schema.version",
        Works(Router("schema_version_column"), "no effect without schemas, as in Debezium"),
    ),
    key(
        "debezium.transforms.<n>.table.fields.additional.placement",
        Works(Router("placement"), "an unknown placement is refused at start"),
    ),
    key("debezium.transforms.<n>.table.field.additional.missing", Works(Router("missing_column"), "")),
    key("debezium.transforms.<n>.table.op.invalid.behavior", Works(Router("on_update"), "")),
    key(
        "debezium.transforms.<n>.table.expand.json.payload",
        Works(Router("expand_json"), "lossless; in strict compatibility as Debezium expands"),
    ),
    key("debezium.transforms.<n>.table.json.payload.null.behavior", Works(Router("json_null"), "")),
    key("debezium.transforms.<n>.table.json.payload.empty.array.behavior", Works(Router("json_empty_array"), "")),
    key("debezium.transforms.<n>.route.by.field", Works(Router("route_by"), "")),
    key("debezium.transforms.<n>.route.topic.regex", Works(Router("topic_regex"), "Java regular expression")),
    key(
        "debezium.transforms.<n>.route.topic.replacement",
        Works(Router("topic_replacement"), "`${routedByValue}` and `$${routedByValue}` alike"),
    ),
    key("debezium.transforms.<n>.route.tombstone.on.empty.payload", Works(Router("tombstone_on_empty"), "")),
    key("debezium.transforms.<n>.field.name.adjustment.mode", Works(Router("field_name_adjustment"), "")),
    key("debezium.transforms.<n>.tracing.span.context.field", Ignored(TRACING)),
    key("debezium.transforms.<n>.tracing.operation.name", Ignored(TRACING)),
    key("debezium.transforms.<n>.tracing.with.context.field.only", Ignored(TRACING)),
    of_others("debezium.transforms.<n>.delete.tombstone.handling.mode", UNWRAP),
    of_others("debezium.transforms.<n>.add.fields", UNWRAP),
    of_others("debezium.transforms.<n>.add.fields.prefix", UNWRAP),
    of_others("debezium.transforms.<n>.add.headers", UNWRAP),
    of_others("debezium.transforms.<n>.add.headers.prefix", UNWRAP),
    of_others("debezium.transforms.<n>.replace.null.with.default", UNWRAP),
    of_others("debezium.transforms.<n>.regex", "of `RegexRouter`: a Java regular expression"),
    of_others("debezium.transforms.<n>.replacement", "of `RegexRouter`"),
    of_others(
        "debezium.transforms.<n>.fields.null.include",
        "of `DecodeLogicalDecodingMessageContent`; strict compatibility",
    ),
    key("debezium.transforms.<n>.delete.handling.mode", Refused(&[], OLD)),
    key("debezium.transforms.<n>.drop.tombstones", Refused(&[], OLD)),
    key("debezium.transforms.<n>.drop.fields.header.name", Refused(&[], DROPPING)),
    key("debezium.transforms.<n>.drop.fields.from.key", Refused(&["false"], DROPPING)),
    key("debezium.transforms.<n>.drop.fields.keep.schema.compatible", Refused(&[], DROPPING)),
    key("debezium.predicates", Works(Mapped, "names of the predicates")),
    key(
        "debezium.predicates.<n>.type",
        Works(
            Mapped,
            "`TopicNameMatches`, `HasHeaderKey`, `RecordIsTombstone` of `org.apache.kafka.connect.transforms.predicates`; others are refused by name",
        ),
    ),
    key(
        "debezium.predicates.<n>.pattern",
        Works(
            Mapped,
            "of `TopicNameMatches`: over the topic in front of the transform, before the router `prefix.schema.table`",
        ),
    ),
    key("debezium.predicates.<n>.name", Works(Mapped, "of `HasHeaderKey`")),
];
