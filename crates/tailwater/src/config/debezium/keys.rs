//! Every key of a Debezium Server file that is known here, and what becomes of it: the one table from which the mapping,
//! the notices and the list in docs/debezium.md come.

use Status::{Ignored, Refused, StrictOnly, Works};

/// One key. In names `<x>` stands for one part between dots, a final `*` for the rest.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub status: Status,
}

#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// Has its meaning here too.
    Works(How, &'static str),
    /// Accepted, with one notice: why it changes nothing.
    Ignored(&'static str),
    /// Changes nothing, but the bytes of strict compatibility: refused there unless it has one of these values.
    StrictOnly(&'static [&'static str], &'static str),
    /// Accepted with one of these values (which ask for nothing), else refused with the reason.
    Refused(&'static [&'static str], &'static str),
}

/// Where a value goes, below the pipeline.
#[derive(Clone, Copy, Debug)]
pub enum How {
    At(&'static str),
    /// A number of milliseconds.
    Millis(&'static str),
    Seconds(&'static str),
    /// Needs other keys too: see the mapping.
    Mapped,
    /// An option of the outbox router.
    Router(&'static str),
}

use How::{At, Mapped, Millis, Router, Seconds};

pub const fn key(name: &'static str, status: Status) -> Key {
    Key { name, status }
}

const NO_OFFSETS: &str = "the position is kept in `state_dir` and in the slot; no offset storage is needed";
const NO_HISTORY: &str = "PostgreSQL needs no schema history";
const NO_ENGINE: &str = "there is no queue between source and sink: memory is bounded by `delivery.memory_bytes`";
const RETRIES: &str = "a peer that is away is tried again for ever, with back-off; other errors stop with a reason";
const INSERTS: &str = "only inserts into the outbox are published";
const NAMED_COLUMNS: &str = "only the columns that the router names are read";
const NO_DRIVER: &str = "there is no JDBC driver";
const SIGNALS: &str = "signals and notifications are not part of this version";
const NO_STORES: &str = "Java key stores cannot be read: use `tailwater.sink.ca_file` with a PEM file";
const CLIENT: &str = "belongs to the Java client";
const REGISTRY: &str = "formats with a schema registry are not part of this version";
const LINEAGE: &str = "OpenLineage is not part of this version";
const TRACING: &str = "tracing headers are not injected in this version (Debezium does so with OpenTelemetry only)";
const SNAPSHOT_SPI: &str = "custom Java classes cannot be loaded";
const MASKING: &str = "columns cannot be masked or cut: it would be unsafe to ignore it";
const DELETES: &str = "deletes of outbox rows are never published";

/// The table, in groups as docs/debezium.md shows them.
pub const GROUPS: &[(&str, &[Key])] = &[
    ("Outbox event router", ROUTER),
    ("Server", SERVER),
    ("Formats", FORMATS),
    ("RabbitMQ sink", RABBITMQ),
    ("Kafka sink", super::kafka::KAFKA),
    ("PostgreSQL: connection", CONNECTION),
    ("PostgreSQL: slot and publication", SLOT),
    ("PostgreSQL: filters and shape", SHAPE),
    ("PostgreSQL: values", VALUES),
    ("PostgreSQL: buffers and retries", BUFFERS),
    ("PostgreSQL: snapshot and signals", SNAPSHOT),
    ("Engine", ENGINE),
];

const ROUTER: &[Key] = &[
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

const SERVER: &[Key] = &[
    key(
        "debezium.source.connector.class",
        Works(Mapped, "`io.debezium.connector.postgresql.PostgresConnector`; others are refused"),
    ),
    key("debezium.sink.type", Works(Mapped, "`rabbitmq`; others are refused")),
    key("debezium.source.name", Ignored("stored positions are named by the pipeline")),
    key("debezium.source.tasks.max", Ignored("a slot has one reader")),
    key(
        "debezium.source.config.providers",
        Ignored("`${file:…}`, `${dir:…}` and `${env:…}` work without being declared"),
    ),
    key(
        "debezium.source.config.providers.*",
        Ignored("`${file:…}`, `${dir:…}` and `${env:…}` work without being declared"),
    ),
    key("debezium.api.enabled", Refused(&["false"], "the signals endpoint is not part of this version")),
    key("debezium.termination.wait", Works(Seconds("delivery.drain_timeout"), "seconds to drain at shutdown")),
    key(
        "quarkus.http.port",
        Works(
            Mapped,
            "port for health, metrics and status; on loopback unless `quarkus.http.host` and `tailwater.http.token` are set",
        ),
    ),
    key("quarkus.http.host", Works(Mapped, "an address; beyond loopback `tailwater.http.token` is needed")),
    key("quarkus.log.level", Ignored("use --log-level or TAILWATER_LOG_LEVEL")),
    key("quarkus.log.console.json", Ignored("use --log-format json or TAILWATER_LOG_FORMAT")),
    key("quarkus.log.category.*", Ignored("use --log-level info,module=debug")),
    key("quarkus.*", Ignored("belongs to the Java runtime")),
    key("tailwater.compatibility", Works(Mapped, "`default` or `strict`")),
    key(
        "tailwater.*",
        Works(
            Mapped,
            "a setting of our own, as in TOML, below the pipeline: `tailwater.delivery.on_rejected`; also `tailwater.state_dir`, `tailwater.http.listen`",
        ),
    ),
];

const FORMATS: &[Key] = &[
    key(
        "debezium.format.key",
        Works(Mapped, "`json`, `jsonbytearray`, `simplestring`, `binary`; seen only as a routing key"),
    ),
    key(
        "debezium.format.value",
        Works(Mapped, "`json`, `jsonbytearray`, `simplestring`, `binary`; others are refused"),
    ),
    key(
        "debezium.format.header",
        Works(Mapped, "`json`, `jsonbytearray`: JSON texts, as Debezium sends them; absent: plain values"),
    ),
    key(
        "debezium.format.schemas.enable",
        Works(Mapped, "`false`; `true` is refused: the schema wrapper comes with a later version"),
    ),
    key("debezium.format.key.schemas.enable", Works(Mapped, "as above")),
    key("debezium.format.value.schemas.enable", Works(Mapped, "as above")),
    key(
        "debezium.format.header.schemas.enable",
        Works(Mapped, "as above; headers are plain values unless `debezium.format.header=json` is written"),
    ),
    key("debezium.format.schemas.cache.size", Ignored("nothing to cache")),
    key("debezium.format.<n>.schemas.cache.size", Ignored("nothing to cache")),
    key("debezium.format.decimal.format", StrictOnly(&["BASE64"], "numbers keep their digits")),
    key("debezium.format.<n>.decimal.format", StrictOnly(&["BASE64"], "numbers keep their digits")),
    key("debezium.format.replace.null.with.default", StrictOnly(&["true"], "a null stays null")),
    key("debezium.format.<n>.replace.null.with.default", StrictOnly(&["true"], "a null stays null")),
    key("debezium.format.apicurio.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.<n>.apicurio.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.schema.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.<n>.schema.registry.url", Refused(&[], REGISTRY)),
];

const RABBITMQ: &[Key] = &[
    key("debezium.sink.rabbitmq.connection.host", Works(Mapped, "default `localhost`")),
    key("debezium.sink.rabbitmq.connection.port", Works(Mapped, "default 5672, with TLS 5671")),
    key("debezium.sink.rabbitmq.connection.username", Works(At("sink.username"), "")),
    key("debezium.sink.rabbitmq.connection.password", Works(At("sink.password"), "")),
    key("debezium.sink.rabbitmq.connection.virtual.host", Works(At("sink.virtual_host"), "")),
    key(
        "debezium.sink.rabbitmq.connection.ssl.enabled",
        Works(Mapped, "`true`: amqps://, the broker's certificate is verified"),
    ),
    key("debezium.sink.rabbitmq.connection.ssl.algorithm", Ignored("TLS 1.2 or 1.3, as the broker has it")),
    key(
        "debezium.sink.rabbitmq.connection.ssl.validate.server.certificate",
        Refused(&["true"], "certificates are always verified; name the CA in `tailwater.sink.ca_file`"),
    ),
    key(
        "debezium.sink.rabbitmq.connection.ssl.verify.hostname",
        Refused(&["true"], "the broker's name is always verified"),
    ),
    key("debezium.sink.rabbitmq.connection.ssl.key.store", Refused(&[], NO_STORES)),
    key("debezium.sink.rabbitmq.connection.ssl.key.store.*", Refused(&[], NO_STORES)),
    key("debezium.sink.rabbitmq.connection.ssl.trust.store", Refused(&[], NO_STORES)),
    key("debezium.sink.rabbitmq.connection.ssl.trust.store.*", Refused(&[], NO_STORES)),
    key("debezium.sink.rabbitmq.connection.timeout", Works(Millis("sink.connect_timeout"), "")),
    key("debezium.sink.rabbitmq.connection.connection.timeout", Works(Millis("sink.connect_timeout"), "")),
    key(
        "debezium.sink.rabbitmq.connection.handshake.timeout",
        Ignored("the time limit on connecting covers the handshake"),
    ),
    key("debezium.sink.rabbitmq.connection.heartbeat", Works(Seconds("sink.heartbeat"), "")),
    key("debezium.sink.rabbitmq.connection.connection.heartbeat", Works(Seconds("sink.heartbeat"), "")),
    key(
        "debezium.sink.rabbitmq.connection.recovery.enabled",
        Ignored("it always reconnects, and sends again what is unconfirmed"),
    ),
    key(
        "debezium.sink.rabbitmq.connection.connection.recovery.enabled",
        Ignored("it always reconnects, and sends again what is unconfirmed"),
    ),
    key("debezium.sink.rabbitmq.connection.*", Ignored(CLIENT)),
    key("debezium.sink.rabbitmq.exchange", Works(At("sink.exchange"), "empty: the topic names the exchange")),
    key("debezium.sink.rabbitmq.routingKey", Works(Mapped, "the fixed key")),
    key(
        "debezium.sink.rabbitmq.routingKey.source",
        Works(Mapped, "`topic`, `key`, `static`; absent: `topic` (with a fixed key: `static`)"),
    ),
    key("debezium.sink.rabbitmq.routingKeyFromTopicName", Works(Mapped, "`true`: the routing key is the topic")),
    key(
        "debezium.sink.rabbitmq.autoCreateRoutingKey",
        Refused(
            &["false"],
            "a queue without a binding receives nothing: declare queue and binding with `tailwater init`, or in `sink.topology`",
        ),
    ),
    key(
        "debezium.sink.rabbitmq.routingKeyDurable",
        Ignored("queues are declared by `tailwater init` or `sink.topology`"),
    ),
    key("debezium.sink.rabbitmq.deliveryMode", Ignored("messages are always persistent")),
    key("debezium.sink.rabbitmq.ackTimeout", Ignored("what is unconfirmed when a connection ends is sent again")),
    key(
        "debezium.sink.rabbitmq.null.value",
        Works(At("sink.null_value"), "absent: an empty body; in strict compatibility the word `default`"),
    ),
];

const CONNECTION: &[Key] = &[
    key(
        "debezium.source.database.hostname",
        Works(At("source.host"), "also several, comma separated, or a socket folder"),
    ),
    key("debezium.source.database.port", Works(At("source.port"), "")),
    key("debezium.source.database.user", Works(At("source.user"), "")),
    key("debezium.source.database.password", Works(At("source.password"), "")),
    key("debezium.source.database.dbname", Works(At("source.dbname"), "")),
    key("debezium.source.topic.prefix", Works(At("route.topic_prefix"), "for predicates and strict headers")),
    key("debezium.source.database.sslmode", Works(At("source.sslmode"), "")),
    key("debezium.source.database.sslcert", Works(At("source.sslcert"), "PEM")),
    key("debezium.source.database.sslkey", Works(At("source.sslkey"), "PEM, without a pass phrase")),
    key("debezium.source.database.sslrootcert", Works(At("source.sslrootcert"), "PEM")),
    key("debezium.source.database.sslpassword", Refused(&[], "keys with a pass phrase are not supported")),
    key("debezium.source.database.sslfactory", Refused(&[], NO_DRIVER)),
    key("debezium.source.database.tcpKeepAlive", Ignored("dead peers are noticed by time limits of the protocol")),
    key(
        "debezium.source.database.initial.statements",
        Refused(&[], "the sessions' settings are fixed, so that values have one text form"),
    ),
    key("debezium.source.database.query.timeout.ms", Ignored("statements have limits of their own")),
    key("debezium.source.connection.validation.timeout.ms", Ignored("statements have limits of their own")),
    key("debezium.source.driver.*", Ignored(NO_DRIVER)),
    key("debezium.source.read.only", Ignored("`run` writes nothing to the database")),
];

const SLOT: &[Key] = &[
    key("debezium.source.plugin.name", Works(Mapped, "`pgoutput`, also when absent; `decoderbufs` is refused")),
    key("debezium.source.slot.name", Works(At("source.slot"), "default `debezium`")),
    key("debezium.source.slot.drop.on.stop", Refused(&["false"], "without the slot events would be lost")),
    key(
        "debezium.source.slot.failover",
        Refused(
            &["false"],
            "failover slots are not made in this version: create the slot yourself with failover = true, it is then used as it is",
        ),
    ),
    key("debezium.source.slot.stream.params", Refused(&[], "parameters of the output plugin are fixed")),
    key("debezium.source.slot.max.retries", Ignored("a slot in use is waited for; its holder is named")),
    key("debezium.source.slot.retry.delay.ms", Ignored("a slot in use is waited for; its holder is named")),
    key(
        "debezium.source.internal.create.slot.command.timeout",
        Ignored("transactions that are waited for are named; the wait has a limit"),
    ),
    key("debezium.source.publication.name", Works(At("source.publication"), "default `dbz_publication`")),
    key(
        "debezium.source.publication.autocreate.mode",
        Works(Mapped, "`run` never creates a publication; `tailwater init` creates it for the outbox, inserts only"),
    ),
    key("debezium.source.publish.via.partition.root", Ignored("always so in a publication made by `tailwater init`")),
    key("debezium.source.replica.identity.autoset.values", Ignored("inserts need no replica identity")),
    key(
        "debezium.source.offset.mismatch.strategy",
        Ignored("a saved position behind the slot's is said, one beyond the server's end stops"),
    ),
    key(
        "debezium.source.internal.slot.seek.to.known.offset.on.start",
        Ignored("streaming always starts at the saved position"),
    ),
    key("debezium.source.status.update.interval.ms", Ignored("a fraction of the server's `wal_sender_timeout`")),
    key(
        "debezium.source.lsn.flush.mode",
        Refused(&["connector", "connector_and_driver"], "what is delivered is always confirmed"),
    ),
    key("debezium.source.flush.lsn.source", Refused(&["true"], "what is delivered is always confirmed")),
    key("debezium.source.lsn.flush.timeout.ms", Ignored("confirming never blocks")),
    key("debezium.source.lsn.flush.timeout.action", Ignored("confirming never blocks")),
    key("debezium.source.xmin.fetch.interval.ms", Ignored("an event carries no source block")),
];

const SHAPE: &[Key] = &[
    key("debezium.source.schema.include.list", Works(Mapped, "one schema: that of the outbox")),
    key("debezium.source.schema.exclude.list", Ignored("only the outbox table is read")),
    key(
        "debezium.source.table.include.list",
        Works(Mapped, "one table: the outbox; of several the one that the predicate names"),
    ),
    key("debezium.source.table.exclude.list", Ignored("only the outbox table is read")),
    key("debezium.source.column.include.list", Ignored(NAMED_COLUMNS)),
    key("debezium.source.column.exclude.list", Ignored(NAMED_COLUMNS)),
    key("debezium.source.table.ignore.builtin", Ignored("only the outbox table is read")),
    key(
        "debezium.source.message.prefix.include.list",
        Refused(&[], "an outbox of logical messages is not part of this version"),
    ),
    key("debezium.source.message.prefix.exclude.list", Ignored("logical messages are not read")),
    key("debezium.source.message.key.columns", Ignored("the key comes from table.field.event.key")),
    key("debezium.source.column.truncate.to.<n>.chars", Refused(&[], MASKING)),
    key("debezium.source.column.mask.with.<n>.chars", Refused(&[], MASKING)),
    key("debezium.source.column.mask.hash.*", Refused(&[], MASKING)),
    key("debezium.source.column.propagate.source.type", Ignored("messages carry no schemas")),
    key("debezium.source.datatype.propagate.source.type", Ignored("messages carry no schemas")),
    key(
        "debezium.source.skipped.operations",
        Works(Mapped, "inserts cannot be skipped; everything else is skipped anyway"),
    ),
    key("debezium.source.skip.messages.without.change", Ignored(INSERTS)),
    key("debezium.source.tombstones.on.delete", Ignored(DELETES)),
    key("debezium.source.converters", Refused(&[""], SNAPSHOT_SPI)),
    key("debezium.source.post.processors", Refused(&[""], SNAPSHOT_SPI)),
    key("debezium.source.schema.name.adjustment.mode", Ignored("messages carry no schemas")),
    key(
        "debezium.source.field.name.adjustment.mode",
        Refused(&["none"], "columns keep their names; for members of the payload set the router's option of this name"),
    ),
    key("debezium.source.include.unknown.datatypes", Ignored("columns of every type are read as text")),
    key(
        "debezium.source.topic.naming.strategy",
        Refused(
            &["io.debezium.schema.SchemaTopicNamingStrategy", "io.debezium.schema.DefaultTopicNamingStrategy"],
            "before the router a topic is prefix.schema.table",
        ),
    ),
    key("debezium.source.topic.delimiter", Refused(&["."], "before the router a topic is prefix.schema.table")),
    key("debezium.source.topic.cache.size", Ignored("nothing to cache")),
    key("debezium.source.topic.transaction", Ignored("transaction markers are not published")),
    key("debezium.source.topic.heartbeat.prefix", Ignored("heartbeats are not published")),
    key("debezium.source.topic.heartbeat.name", Ignored("heartbeats are not published")),
    key("debezium.source.sourceinfo.struct.maker", Ignored("an event carries no source block")),
    key(
        "debezium.source.extended.headers.enabled",
        StrictOnly(&["true"], "the context headers are a part of strict compatibility only"),
    ),
];

const VALUES: &[Key] = &[
    key("debezium.source.decimal.handling.mode", StrictOnly(&["precise"], "numbers keep their digits")),
    key("debezium.source.time.precision.mode", StrictOnly(&["adaptive"], "times are read as the database has them")),
    key("debezium.source.interval.handling.mode", StrictOnly(&["numeric"], "intervals are text")),
    key("debezium.source.hstore.handling.mode", StrictOnly(&["json"], "hstore is text")),
    key(
        "debezium.source.binary.handling.mode",
        Refused(&["bytes"], "a bytea payload is published as its bytes (in JSON as base64)"),
    ),
    key("debezium.source.money.fraction.digits", StrictOnly(&["2"], "money is text")),
    key("debezium.source.unavailable.value.placeholder", Ignored("an inserted row is complete")),
    key(
        "debezium.source.event.converting.failure.handling.mode",
        Refused(
            &["warn", "fail"],
            "a value that cannot be read is never left out: the event is rejected with the reason",
        ),
    ),
    key(
        "debezium.source.event.processing.failure.handling.mode",
        Refused(&["fail"], "events are never skipped: see `tailwater.delivery.on_rejected`"),
    ),
    key("debezium.source.schema.refresh.mode", Ignored("an inserted row is complete")),
];

const BUFFERS: &[Key] = &[
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
    ),
    key("debezium.source.heartbeat.action.query", Ignored("an idle outbox's position moves by itself")),
    key("debezium.source.provide.transaction.metadata", Refused(&["false"], "transaction markers are not published")),
    key("debezium.source.executor.shutdown.timeout.ms", Ignored("see `debezium.termination.wait`")),
    key("debezium.source.guardrail.collections.max", Ignored("one table is read")),
    key("debezium.source.guardrail.collections.limit.action", Ignored("one table is read")),
    key("debezium.source.statistics.metrics.enabled", Ignored("metrics are at /metrics")),
    key("debezium.source.custom.metric.tags", Ignored("metrics carry the pipeline's name")),
    key("debezium.source.internal.offset.activity.monitor.interval.ms", Ignored("see lag in `tailwater status`")),
    key("debezium.source.internal.log.position.check.enable", Ignored("positions are always checked")),
];

const SNAPSHOT: &[Key] = &[
    key(
        "debezium.source.snapshot.mode",
        Works(
            Mapped,
            "`initial`, `when_needed` (the first time only), `no_data`, `never`, `schema_only`; others are refused",
        ),
    ),
    key("debezium.source.snapshot.mode.configuration.based.*", Ignored("belongs to a snapshot mode that is refused")),
    key("debezium.source.snapshot.mode.custom.name", Refused(&[], SNAPSHOT_SPI)),
    key("debezium.source.snapshot.locking.mode.custom.name", Refused(&[], SNAPSHOT_SPI)),
    key("debezium.source.snapshot.query.mode.custom.name", Refused(&[], SNAPSHOT_SPI)),
    key("debezium.source.snapshot.isolation.mode", Ignored("one consistent read of one table: repeatable read")),
    key("debezium.source.snapshot.locking.mode", Ignored("nothing is locked")),
    key("debezium.source.snapshot.lock.timeout.ms", Ignored("nothing is locked")),
    key("debezium.source.snapshot.query.mode", Refused(&["select_all"], SNAPSHOT_SPI)),
    key("debezium.source.snapshot.fetch.size", Ignored(NO_ENGINE)),
    key("debezium.source.snapshot.delay.ms", Ignored("starts at once")),
    key("debezium.source.streaming.delay.ms", Ignored("starts at once")),
    key("debezium.source.snapshot.max.threads", Ignored("one table, one reader")),
    key("debezium.source.snapshot.max.threads.multiplier", Ignored("one table, one reader")),
    key("debezium.source.legacy.snapshot.max.threads", Ignored("one table, one reader")),
    key(
        "debezium.source.snapshot.include.collection.list",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    ),
    key(
        "debezium.source.snapshot.select.statement.overrides",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    ),
    key(
        "debezium.source.snapshot.select.statement.overrides.*",
        Refused(&[], "the outbox is read whole or, with snapshot.mode=no_data, not at all"),
    ),
    key("debezium.source.snapshot.tables.order.by.row.count", Ignored("one table is read")),
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

const ENGINE: &[Key] = &[
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

/// Sinks of Debezium Server that are not built in: their settings may lie in a file that chooses another.
pub const OTHER_SINKS: &[&str] = &[
    "eventhubs",
    "http",
    "infinispan",
    "instructlab",
    "kinesis",
    "milvus",
    "nats-jetstream",
    "nats-streaming",
    "pravega",
    "pubsub",
    "pubsublite",
    "pulsar",
    "qdrant",
    "rabbitmqstream",
    "redis",
    "rocketmq",
    "sns",
    "sqs",
];

/// All keys in order.
pub fn all() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The table's entry for a key as written: an exact name before a pattern, a longer pattern before a shorter.
pub fn find(written: &str) -> Option<&'static Key> {
    all().find(|key| key.name == written).or_else(|| {
        all().filter(|key| matches(key.name, written)).max_by_key(|key| (!key.name.ends_with('*'), key.name.len()))
    })
}

/// Whether a pattern stands for a key.
pub fn matches(pattern: &str, written: &str) -> bool {
    let mut parts = written.split('.');
    for wanted in pattern.split('.') {
        match parts.next() {
            Some(part) if wanted == "*" => return !part.is_empty(),
            Some(part) if wanted.starts_with('<') && !part.is_empty() => {}
            Some(part) if part == wanted => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// The key that was probably meant: wild parts of names are taken from what was written.
pub fn nearest(written: &str) -> Option<String> {
    let parts: Vec<&str> = written.split('.').collect();
    let filled = |name: &str| -> String {
        let part = |(n, wanted): (usize, &str)| match parts.get(n) {
            Some(part) if wanted.starts_with('<') || wanted == "*" => (*part).to_owned(),
            _ => wanted.to_owned(),
        };
        name.split('.').enumerate().map(part).collect::<Vec<_>>().join(".")
    };
    let names: Vec<String> = all().map(|key| filled(key.name)).collect();
    let limit = |name: &str| 3.max(name.len() / 6);
    let near = names.iter().map(|name| (strsim::damerau_levenshtein(written, name), name));
    near.filter(|(distance, name)| *distance <= limit(name)).min().map(|(_, name)| name.clone())
}
