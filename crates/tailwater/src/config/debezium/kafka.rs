//! The Kafka side of a file: `debezium.sink.kafka.producer.*` are settings of the Java client; those that say where the
//! cluster is, how to log in and how to compress are taken over, the others have no meaning here or are refused by name.

use super::super::flags::PIPELINE;
use super::Mapper;
use super::keys::How::{At, Mapped, Millis};
use super::keys::Status::{Ignored, Refused, Works};
use super::keys::{Key, key};
use serde_json::json;

const SERVERS: &str = "debezium.sink.kafka.producer.bootstrap.servers";
const JAAS: &str = "debezium.sink.kafka.producer.sasl.jaas.config";
const TRUST: &str = "debezium.sink.kafka.producer.ssl.truststore.location";
const TRUST_TYPE: &str = "debezium.sink.kafka.producer.ssl.truststore.type";
const TRANSACTIONS: &str = "debezium.sink.kafka.producer.transactional.id";

const RETRIES: &str = "a record is tried until the brokers have it, in order";
const NO_STORES: &str =
    "Java key stores cannot be read: use `tailwater.sink.ca_file`, `certificate_file` and `key_file` with PEM files";

/// What becomes of each key.
pub const KAFKA: &[Key] = &[
    key(SERVERS, Works(Mapped, "")),
    key("debezium.sink.kafka.producer.client.id", Works(At("sink.client_id"), "")),
    key("debezium.sink.kafka.producer.compression.type", Works(At("sink.compression"), "")),
    key(
        "debezium.sink.kafka.producer.linger.ms",
        Works(Millis("sink.linger"), "default 0: under load batches form by themselves"),
    ),
    key(
        "debezium.sink.kafka.producer.max.request.size",
        Works(At("sink.max_message_bytes"), "absent: each topic's own limit"),
    ),
    key("debezium.sink.kafka.producer.security.protocol", Works(At("sink.security_protocol"), "")),
    key(
        "debezium.sink.kafka.producer.sasl.mechanism",
        Works(At("sink.sasl_mechanism"), "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`"),
    ),
    key(JAAS, Works(Mapped, "username and password of `PlainLoginModule` or `ScramLoginModule`")),
    key(TRUST, Works(Mapped, "with `ssl.truststore.type=PEM`; Java key stores are refused")),
    key(TRUST_TYPE, Refused(&["PEM"], NO_STORES)),
    key(
        "debezium.sink.kafka.producer.ssl.endpoint.identification.algorithm",
        Refused(&["https"], "the broker's name is always verified"),
    ),
    key("debezium.sink.kafka.producer.ssl.*", Refused(&[], NO_STORES)),
    key(
        "debezium.sink.kafka.producer.sasl.*",
        Refused(&[], "only the mechanisms with a password are part of this version"),
    ),
    key(
        "debezium.sink.kafka.producer.acks",
        Refused(&["all", "-1"], "what is not on all in-sync replicas may be lost: it has no off switch"),
    ),
    key(
        "debezium.sink.kafka.producer.enable.idempotence",
        Refused(&["true"], "without it repetitions and disorder are possible: it has no off switch"),
    ),
    key(
        TRANSACTIONS,
        Refused(
            &[],
            "write `tailwater.sink.exactly_once=true` and `tailwater.sink.transactional_id`: the position then is part of the transaction",
        ),
    ),
    key("debezium.sink.kafka.producer.transaction.timeout.ms", Ignored("transactions end by themselves")),
    key(
        "debezium.sink.kafka.producer.partitioner.class",
        Refused(
            &["org.apache.kafka.clients.producer.internals.DefaultPartitioner"],
            "custom Java classes cannot be loaded; keys go where the Java client sends them by default",
        ),
    ),
    key("debezium.sink.kafka.producer.partitioner.*", Ignored("keys go where the Java client sends them by default")),
    key("debezium.sink.kafka.producer.interceptor.classes", Refused(&[""], "custom Java classes cannot be loaded")),
    key("debezium.sink.kafka.producer.key.serializer", Ignored("keys are the bytes that the key format makes")),
    key("debezium.sink.kafka.producer.value.serializer", Ignored("values are the bytes that the value format makes")),
    key("debezium.sink.kafka.producer.retries", Ignored(RETRIES)),
    key("debezium.sink.kafka.producer.retry.backoff.*", Ignored(RETRIES)),
    key("debezium.sink.kafka.producer.delivery.timeout.ms", Ignored(RETRIES)),
    key("debezium.sink.kafka.producer.request.timeout.ms", Ignored(RETRIES)),
    key("debezium.sink.kafka.producer.max.block.ms", Ignored(RETRIES)),
    key(
        "debezium.sink.kafka.producer.max.in.flight.requests.per.connection",
        Ignored("the idempotent producer keeps the order"),
    ),
    key(
        "debezium.sink.kafka.producer.batch.size",
        Ignored("batches are as large as what waits, within the topic's limit"),
    ),
    key("debezium.sink.kafka.producer.buffer.memory", Ignored("memory is bounded by `delivery.memory_bytes`")),
    key("debezium.sink.kafka.producer.send.buffer.bytes", Ignored("belongs to the Java client")),
    key("debezium.sink.kafka.producer.receive.buffer.bytes", Ignored("belongs to the Java client")),
    key("debezium.sink.kafka.producer.metadata.*", Ignored("see `tailwater.sink.topics.refresh`")),
    key("debezium.sink.kafka.producer.metrics.*", Ignored("metrics are at `/metrics`")),
    key("debezium.sink.kafka.producer.metric.*", Ignored("metrics are at `/metrics`")),
    key("debezium.sink.kafka.producer.connections.max.idle.ms", Ignored("belongs to the Java client")),
    key("debezium.sink.kafka.producer.reconnect.*", Ignored(RETRIES)),
    key("debezium.sink.kafka.producer.*", Refused(&[], "a setting of the Java client that is not taken over")),
    key("debezium.sink.kafka.wait.message.delivery.timeout.ms", Ignored(RETRIES)),
];

impl Mapper<'_> {
    pub(super) fn kafka(&mut self) {
        let origin = self.origin("debezium.sink.type");
        self.set("sink.type", "kafka", origin);
        match self.value(SERVERS).map(str::to_owned) {
            Some(servers) => {
                let servers: Vec<&str> =
                    servers.split(',').map(str::trim).filter(|server| !server.is_empty()).collect();
                let path = format!("pipelines.{PIPELINE}.sink.bootstrap_servers");
                self.collected.settings.set_value(&path, json!(servers), self.origin(SERVERS));
            }
            None => self.problem(SERVERS, format!("is missing: write {SERVERS}=host:9092")),
        }
        self.log_in();
        if let Some(file) = self.value(TRUST).map(str::to_owned) {
            if self.value(TRUST_TYPE) == Some("PEM") {
                let origin = self.origin(TRUST);
                self.set("sink.ca_file", &file, origin);
            } else {
                self.problem(TRUST, format!("`{TRUST}` is not supported: {NO_STORES}"));
            }
        }
        self.decide(
            "debezium.sink.kafka.producer.acks",
            "records are acknowledged by all in-sync replicas, idempotently and without a time limit (Debezium: gives up after wait.message.delivery.timeout.ms)",
        );
        self.decide(
            "debezium.sink.type",
            "the router's partition and timestamp are used (Debezium Server: ignored, as Kafka Connect does not)",
        );
    }

    fn log_in(&mut self) {
        let Some(jaas) = self.value(JAAS).map(str::to_owned) else { return };
        let known = jaas.contains("PlainLoginModule") || jaas.contains("ScramLoginModule");
        match (known, option(&jaas, "username"), option(&jaas, "password")) {
            (true, Some(username), Some(password)) => {
                let origin = self.origin(JAAS);
                self.set("sink.username", &username, origin.clone());
                self.set("sink.password", &password, origin);
            }
            // it holds a password: nothing of it is repeated
            _ => self.problem(
                JAAS,
                "is not understood: write org.apache.kafka.common.security.plain.PlainLoginModule (or scram.ScramLoginModule) required username=\"…\" password=\"…\";",
            ),
        }
    }
}

/// `name="value"` or `name=value` of a JAAS line; in quotes `\"` and `\\` stand for themselves.
fn option(jaas: &str, name: &str) -> Option<String> {
    let mut rest = jaas;
    loop {
        let at = rest.find(name)?;
        let before = rest[..at].chars().next_back();
        let after = rest[at + name.len()..].trim_start();
        if before.is_none_or(char::is_whitespace)
            && let Some(value) = after.strip_prefix('=')
        {
            let value = value.trim_start();
            let Some(quoted) = value.strip_prefix('"') else {
                return Some(value.split([' ', ';', '\t']).next().unwrap_or_default().to_owned());
            };
            let mut text = String::new();
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                match c {
                    '"' => return Some(text),
                    '\\' => text.extend(chars.next()),
                    c => text.push(c),
                }
            }
            return None;
        }
        rest = &rest[at + name.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn username_and_password_of_a_jaas_line() {
        let line =
            r#"org.apache.kafka.common.security.scram.ScramLoginModule required username="relay" password="a\"b;=c";"#;
        assert_eq!(option(line, "username").as_deref(), Some("relay"));
        assert_eq!(option(line, "password").as_deref(), Some("a\"b;=c"));
        assert_eq!(option("X required password = plain;", "password").as_deref(), Some("plain"));
        assert_eq!(option("X required username=\"open", "username"), None);
        assert_eq!(option("X required;", "username"), None);
    }
}
