//! PostgreSQL: how it is reached, what is read of it, and how values are written.

use super::How::{At, Mapped, Word};
use super::Status::{Ignored, Refused, StrictOnly, Works};
use super::{Key, key};

const INSERTS: &str = "only inserts into the outbox are published";
const NAMED_COLUMNS: &str = "only the columns that the router names are read";
const NO_DRIVER: &str = "there is no JDBC driver";
const CLASSES: &str = "custom Java classes cannot be loaded";
const MASKING: &str = "columns cannot be masked or cut: it would be unsafe to ignore it";
const DELETES: &str = "deletes of outbox rows are never published";

pub const CONNECTION: &[Key] = &[
    key(
        "debezium.source.database.hostname",
        Works(At("source.host"), "also several, comma separated, or a socket folder"),
    ),
    key("debezium.source.database.port", Works(At("source.port"), "")),
    key("debezium.source.database.user", Works(At("source.user"), "")),
    key("debezium.source.database.password", Works(At("source.password"), "")),
    key("debezium.source.database.dbname", Works(At("source.dbname"), "")),
    key("debezium.source.topic.prefix", Works(At("route.topic_prefix"), "for predicates and strict headers"))
        .changes(Works(At("route.topic_prefix"), "first part of every topic, and `source.name`")),
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

pub const SLOT: &[Key] = &[
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
    )
    .changes(Works(Mapped, "absent: `filtered`, for the captured tables only")),
    key("debezium.source.publish.via.partition.root", Ignored("always so in a publication made by `tailwater init`"))
        .changes(Works(At("source.publish_via_partition_root"), "of a publication made at start")),
    key("debezium.source.replica.identity.autoset.values", Ignored("inserts need no replica identity"))
        .changes(Refused(&[""], "tables are not altered: ALTER TABLE … REPLICA IDENTITY …")),
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
    key("debezium.source.xmin.fetch.interval.ms", Ignored("an event carries no source block"))
        .changes(Refused(&["0"], "`source.xmin` is always null")),
];

pub const SHAPE: &[Key] = &[
    key("debezium.source.schema.include.list", Works(Mapped, "one schema: that of the outbox"))
        .changes(Works(At("source.tables.include_schemas"), "")),
    key("debezium.source.schema.exclude.list", Ignored("only the outbox table is read"))
        .changes(Works(At("source.tables.exclude_schemas"), "")),
    key(
        "debezium.source.table.include.list",
        Works(Mapped, "one table: the outbox; of several the one that the predicate names"),
    )
    .changes(Works(At("source.tables.include"), "Java regular expressions; absent: every table of the publication")),
    key("debezium.source.table.exclude.list", Ignored("only the outbox table is read"))
        .changes(Works(At("source.tables.exclude"), "")),
    key("debezium.source.column.include.list", Ignored(NAMED_COLUMNS))
        .changes(Works(At("route.changes.column_include"), "")),
    key("debezium.source.column.exclude.list", Ignored(NAMED_COLUMNS))
        .changes(Works(At("route.changes.column_exclude"), "")),
    key("debezium.source.table.ignore.builtin", Ignored("only the outbox table is read"))
        .changes(Ignored("system tables are in no publication")),
    key(
        "debezium.source.message.prefix.include.list",
        Refused(&[], "an outbox of logical messages is not part of this version"),
    )
    .changes(Works(At("route.changes.message_prefix_include"), "")),
    key("debezium.source.message.prefix.exclude.list", Ignored("logical messages are not read"))
        .changes(Works(At("route.changes.message_prefix_exclude"), "")),
    key("debezium.source.message.key.columns", Ignored("the key comes from table.field.event.key")).changes(Works(
        At("route.changes.message_key_columns"),
        "a table whose replica identity lacks such a column is refused at start",
    )),
    key("debezium.source.column.truncate.to.<n>.chars", Refused(&[], MASKING)),
    key("debezium.source.column.mask.with.<n>.chars", Refused(&[], MASKING)),
    key("debezium.source.column.mask.hash.*", Refused(&[], MASKING)),
    key("debezium.source.column.propagate.source.type", Ignored("messages carry no schemas"))
        .changes(Refused(&[""], "schemas have no parameters of the column's type")),
    key("debezium.source.datatype.propagate.source.type", Ignored("messages carry no schemas"))
        .changes(Refused(&[""], "schemas have no parameters of the column's type")),
    key(
        "debezium.source.skipped.operations",
        Works(Mapped, "inserts cannot be skipped; everything else is skipped anyway"),
    )
    .changes(Works(At("route.changes.skipped_operations"), "default `t`")),
    key("debezium.source.skip.messages.without.change", Ignored(INSERTS))
        .changes(Works(Word("route.changes.skip_unchanged"), "of tables with replica identity FULL, as there")),
    key("debezium.source.tombstones.on.delete", Ignored(DELETES))
        .changes(Works(Word("route.changes.tombstones_on_delete"), "")),
    key("debezium.source.converters", Refused(&[""], CLASSES)),
    key("debezium.source.post.processors", Refused(&[""], CLASSES)),
    key("debezium.source.schema.name.adjustment.mode", Ignored("messages carry no schemas"))
        .changes(Refused(&["none"], "names are written as they are")),
    key(
        "debezium.source.field.name.adjustment.mode",
        Refused(&["none"], "columns keep their names; for members of the payload set the router's option of this name"),
    )
    .changes(Refused(&["none"], "names are written as they are")),
    key("debezium.source.include.unknown.datatypes", Ignored("columns of every type are read as text")).changes(
        Refused(
            &["false"],
            "a column of a type that is not covered is refused by name at start: leave it out with column.exclude.list",
        ),
    ),
    key(
        "debezium.source.topic.naming.strategy",
        Refused(
            &["io.debezium.schema.SchemaTopicNamingStrategy", "io.debezium.schema.DefaultTopicNamingStrategy"],
            "before the router a topic is prefix.schema.table",
        ),
    )
    .changes(Refused(
        &["io.debezium.schema.SchemaTopicNamingStrategy"],
        "a topic is prefix.schema.table; transforms change it",
    )),
    key("debezium.source.topic.delimiter", Refused(&["."], "before the router a topic is prefix.schema.table"))
        .changes(Works(At("route.changes.topic_delimiter"), "")),
    key("debezium.source.topic.cache.size", Ignored("nothing to cache")),
    key("debezium.source.topic.transaction", Ignored("transaction markers are not published")),
    key("debezium.source.topic.heartbeat.prefix", Ignored("heartbeats are not published")),
    key("debezium.source.topic.heartbeat.name", Ignored("heartbeats are not published")),
    key("debezium.source.sourceinfo.struct.maker", Ignored("an event carries no source block"))
        .changes(Refused(&["io.debezium.connector.postgresql.PostgresSourceInfoStructMaker"], CLASSES)),
    key(
        "debezium.source.extended.headers.enabled",
        StrictOnly(&["true"], "the context headers are a part of strict compatibility only"),
    )
    .changes(StrictOnly(&["true"], "the context headers are a part of strict compatibility only")),
];

pub const VALUES: &[Key] = &[
    key("debezium.source.decimal.handling.mode", StrictOnly(&["precise"], "numbers keep their digits"))
        .changes(Works(Word("route.changes.decimal"), "`precise`, `string`, `double`")),
    key("debezium.source.time.precision.mode", StrictOnly(&["adaptive"], "times are read as the database has them"))
        .changes(Works(Word("route.changes.time"), "all but `structured`")),
    key("debezium.source.interval.handling.mode", StrictOnly(&["numeric"], "intervals are text"))
        .changes(Works(Word("route.changes.interval"), "`numeric`, `string`")),
    key("debezium.source.hstore.handling.mode", StrictOnly(&["json"], "hstore is text"))
        .changes(Works(Word("route.changes.hstore"), "`json`, `map`")),
    key(
        "debezium.source.binary.handling.mode",
        Refused(&["bytes"], "a bytea payload is published as its bytes (in JSON as base64)"),
    )
    .changes(Works(Word("route.changes.binary"), "`bytes`, `base64`, `base64-url-safe`, `hex`")),
    key("debezium.source.money.fraction.digits", StrictOnly(&["2"], "money is text"))
        .changes(Works(At("route.changes.money_fraction_digits"), "at least 2")),
    key("debezium.source.unavailable.value.placeholder", Ignored("an inserted row is complete"))
        .changes(Works(Mapped, "a text; bytes written as `hex:…` are refused")),
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
    key("debezium.source.schema.refresh.mode", Ignored("an inserted row is complete"))
        .changes(Ignored("the log describes every table before its first change")),
];
