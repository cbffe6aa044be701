//! How the source runs: buffers, retries, snapshot, signals, the engine.

use super::How::Mapped;
use super::Status::{Ignored, Refused, Works};
use super::{Key, key};

const NO_OFFSETS: &str = "the position is kept in `state_dir` and in the slot; no offset storage is needed";
const NO_HISTORY: &str = "PostgreSQL needs no schema history";
const NO_ENGINE: &str = "there is no queue between source and sink: memory is bounded by `delivery.memory_bytes`";
const RETRIES: &str = "a peer that is away is tried again for ever, with back-off; other errors stop with a reason";
const SIGNALS: &str = "signals and notifications are not part of this version";
const LINEAGE: &str = "OpenLineage is not part of this version";
const CLASSES: &str = "custom Java classes cannot be loaded";

pub const BUFFERS: &[Key] = &[
    key("debezium.source.max.batch.size", Ignored(NO_ENGINE)),
    key("debezium.source.max.queue.size", Ignored(NO_ENGINE)),
    key("debezium.source.max.queue.size.in.bytes", Ignored(NO_ENGINE)),
    key("debezium.source.queue.provider.type", Ignored(NO_ENGINE)),
    key("debezium.source.poll.interval.ms", Ignored("events are sent as they arrive")),
    key("debezium.source.poll.dispatch.interval.ms", Ignored("events are sent as they arrive")),
    key("debezium.source.errors.max.retries", Ignored(RETRIES)),
    key("debezium.source.errors.retry.delay.initial.ms", Ignored(RETRIES)),
    key("debezium.source.errors.retry.delay.max.ms", Ignored(RETRIES)),
    key(
        "debezium.source.errors.tolerance",
        Refused(&["none"], "events are never skipped: see `tailwater.delivery.on_rejected`"),
    ),
    key("debezium.source.retriable.restart.connector.wait.ms", Ignored(RETRIES)),
    key("debezium.source.internal.custom.retriable.exception", Ignored(RETRIES)),
    key(
        "debezium.source.heartbeat.interval.ms",
        Ignored("an idle outbox's position moves by itself; heartbeats are not published"),
    )
    .changes(Ignored("an idle pipeline's position moves by itself; heartbeats are not published")),
    key("debezium.source.heartbeat.action.query", Ignored("an idle outbox's position moves by itself"))
        .changes(Ignored("an idle pipeline's position moves by itself")),
    key("debezium.source.provide.transaction.metadata", Refused(&["false"], "transaction markers are not published")),
    key("debezium.source.executor.shutdown.timeout.ms", Ignored("see `debezium.termination.wait`")),
    key("debezium.source.guardrail.collections.max", Ignored("one table is read"))
        .changes(Ignored("there is no limit on the number of tables")),
    key("debezium.source.guardrail.collections.limit.action", Ignored("one table is read"))
        .changes(Ignored("there is no limit on the number of tables")),
    key("debezium.source.statistics.metrics.enabled", Ignored("metrics are at /metrics")),
    key("debezium.source.custom.metric.tags", Ignored("metrics carry the pipeline's name")),
    key("debezium.source.internal.offset.activity.monitor.interval.ms", Ignored("see lag in `tailwater status`")),
    key("debezium.source.internal.log.position.check.enable", Ignored("positions are always checked")),
];

pub const SNAPSHOT: &[Key] = &[
    key(
        "debezium.source.snapshot.mode",
        Works(
            Mapped,
            "`initial`, `when_needed` (the first time only), `no_data`, `never`, `schema_only`; others are refused",
        ),
    ),
    key("debezium.source.snapshot.mode.configuration.based.*", Ignored("belongs to a snapshot mode that is refused")),
    key("debezium.source.snapshot.mode.custom.name", Refused(&[], CLASSES)),
    key("debezium.source.snapshot.locking.mode.custom.name", Refused(&[], CLASSES)),
    key("debezium.source.snapshot.query.mode.custom.name", Refused(&[], CLASSES)),
    key("debezium.source.snapshot.isolation.mode", Ignored("one consistent read of one table: repeatable read"))
        .changes(Ignored("one consistent read of all tables: repeatable read")),
    key("debezium.source.snapshot.locking.mode", Ignored("nothing is locked")),
    key("debezium.source.snapshot.lock.timeout.ms", Ignored("nothing is locked")),
    key("debezium.source.snapshot.query.mode", Refused(&["select_all"], CLASSES)),
    key("debezium.source.snapshot.fetch.size", Ignored(NO_ENGINE)),
    key("debezium.source.snapshot.delay.ms", Ignored("starts at once")),
    key("debezium.source.streaming.delay.ms", Ignored("starts at once")),
    key("debezium.source.snapshot.max.threads", Ignored("one table, one reader"))
        .changes(Ignored("one reader reads table by table")),
    key("debezium.source.snapshot.max.threads.multiplier", Ignored("one table, one reader"))
        .changes(Ignored("one reader reads table by table")),
    key("debezium.source.legacy.snapshot.max.threads", Ignored("one table, one reader"))
        .changes(Ignored("one reader reads table by table")),
    key(
        "debezium.source.snapshot.include.collection.list",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    )
    .changes(Refused(&[], "captured tables are read whole or, with snapshot.mode=no_data, not at all")),
    key(
        "debezium.source.snapshot.select.statement.overrides",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    )
    .changes(Refused(&[], "captured tables are read whole or, with snapshot.mode=no_data, not at all")),
    key(
        "debezium.source.snapshot.select.statement.overrides.*",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    )
    .changes(Refused(&[], "captured tables are read whole or, with snapshot.mode=no_data, not at all")),
    key("debezium.source.snapshot.tables.order.by.row.count", Ignored("one table is read"))
        .changes(Refused(&["disabled"], "tables are read by name")),
    key("debezium.source.signal.data.collection", Ignored(SIGNALS)),
    key("debezium.source.signal.enabled.channels", Ignored(SIGNALS)),
    key("debezium.source.signal.poll.interval.ms", Ignored(SIGNALS)),
    key("debezium.source.signal.emit.failure.max.retries", Ignored(SIGNALS)),
    key("debezium.source.signal.emit.failure.backoff.ms", Ignored(SIGNALS)),
    key("debezium.source.incremental.snapshot.chunk.size", Ignored(SIGNALS)),
    key("debezium.source.incremental.snapshot.watermarking.strategy", Ignored(SIGNALS)),
    key("debezium.source.incremental.snapshot.allow.schema.changes", Ignored(SIGNALS)),
    key("debezium.source.notification.enabled.channels", Ignored(SIGNALS)),
    key("debezium.source.notification.sink.topic.name", Ignored(SIGNALS)),
    key("debezium.source.openlineage.integration.*", Ignored(LINEAGE)),
];

pub const ENGINE: &[Key] = &[
    key("debezium.source.offset.storage", Ignored(NO_OFFSETS)),
    key("debezium.source.offset.storage.*", Ignored(NO_OFFSETS)),
    key("debezium.source.offset.flush.interval.ms", Ignored("see `tailwater.delivery.confirm_interval`")),
    key("debezium.source.offset.flush.timeout.ms", Ignored(NO_OFFSETS)),
    key("debezium.source.offset.commit.policy", Ignored(NO_OFFSETS)),
    key("debezium.source.schema.history.internal", Ignored(NO_HISTORY)),
    key("debezium.source.schema.history.internal.*", Ignored(NO_HISTORY)),
    key("debezium.source.record.processing.*", Ignored("order is kept per key, whatever the number of lanes")),
    key("debezium.source.task.management.timeout.ms", Ignored("there are no tasks")),
    key("debezium.source.internal.task.management.timeout.ms", Ignored("there are no tasks")),
];
