//! The server itself, formats, RabbitMQ.

use super::How::{At, Mapped, Millis, Seconds};
use super::Status::{Ignored, Refused, StrictOnly, Works};
use super::{Key, key};

const NO_STORES: &str = "Java key stores cannot be read: use `tailwater.sink.ca_file` with a PEM file";
const CLIENT: &str = "belongs to the Java client";
const DECIMALS: &str = "`BASE64`, or `NUMERIC`: decimals of keys and bodies are JSON numbers";
const REGISTRY: &str = "formats with a schema registry are not part of this version";

pub const SERVER: &[Key] = &[
    key(
        "debezium.source.connector.class",
        Works(Mapped, "`io.debezium.connector.postgresql.PostgresConnector`; others are refused"),
    ),
    key("debezium.sink.type", Works(Mapped, "`rabbitmq`, `kafka`; others are refused")),
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

pub const FORMATS: &[Key] = &[
    key(
        "debezium.format.key",
        Works(Mapped, "`json`, `jsonbytearray`, `simplestring`, `binary`; RabbitMQ: seen only as a routing key"),
    ),
    key(
        "debezium.format.value",
        Works(Mapped, "`json`, `jsonbytearray`, `simplestring`, `binary`; others are refused"),
    ),
    key(
        "debezium.format.header",
        Works(Mapped, "`json`, `jsonbytearray`: JSON texts, as Debezium sends them; absent: plain values"),
    ),
    key("debezium.format.schemas.enable", Works(Mapped, "absent: `true` in strict compatibility, else `false`")),
    key("debezium.format.key.schemas.enable", Works(Mapped, "as above")),
    key("debezium.format.value.schemas.enable", Works(Mapped, "as above")),
    key(
        "debezium.format.header.schemas.enable",
        Works(Mapped, "as above; headers are plain values unless `debezium.format.header=json` is written"),
    ),
    key("debezium.format.schemas.cache.size", Ignored("nothing to cache")),
    key("debezium.format.<n>.schemas.cache.size", Ignored("nothing to cache")),
    key("debezium.format.decimal.format", StrictOnly(&["BASE64"], "numbers keep their digits"))
        .changes(Works(Mapped, DECIMALS)),
    key("debezium.format.<n>.decimal.format", StrictOnly(&["BASE64"], "numbers keep their digits"))
        .changes(Works(Mapped, DECIMALS)),
    key("debezium.format.replace.null.with.default", StrictOnly(&["true"], "a null stays null")),
    key("debezium.format.<n>.replace.null.with.default", StrictOnly(&["true"], "a null stays null")),
    key("debezium.format.apicurio.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.<n>.apicurio.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.schema.registry.url", Refused(&[], REGISTRY)),
    key("debezium.format.<n>.schema.registry.url", Refused(&[], REGISTRY)),
];

pub const RABBITMQ: &[Key] = &[
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
