//! Transforms and predicates.

use super::How::{Mapped, Router};
use super::Status::{Ignored, Refused, Works};
use super::{Key, key};

const TRACING: &str = "tracing headers are not injected in this version (Debezium does so with OpenTelemetry only)";

pub const ROUTER: &[Key] = &[
    key("debezium.transforms", Works(Mapped, "exactly one transform, the outbox event router")),
    key(
        "debezium.transforms.<n>.type",
        Works(Mapped, "`io.debezium.transforms.outbox.EventRouter`; others are refused by name"),
    ),
    key(
        "debezium.transforms.<n>.predicate",
        Works(Mapped, "with a `TopicNameMatches` predicate: which tables are outboxes"),
    ),
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
    key("debezium.predicates", Works(Mapped, "names of the predicates")),
    key(
        "debezium.predicates.<n>.type",
        Works(Mapped, "`org.apache.kafka.connect.transforms.predicates.TopicNameMatches`; others are refused by name"),
    ),
    key("debezium.predicates.<n>.pattern", Works(Mapped, "over `prefix.schema.table`, the topic *before* the router")),
    key(
        "debezium.predicates.<n>.name",
        Refused(&[], "belongs to the predicate `HasHeaderKey`, which is not supported"),
    ),
];
