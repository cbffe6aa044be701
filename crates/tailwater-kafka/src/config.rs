//! How to reach Kafka and how to publish there. The one place where these settings are defined.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use tailwater_core::secret::Secret;

/// `[pipelines.NAME.sink]` with `type = "kafka"`, and `[kafka]`: the process's own Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several of one cluster. Empty: those of `[kafka]`, with how to log in there.
    pub bootstrap_servers: Vec<String>,
    /// None: `SASL_SSL` with a username, else `PLAINTEXT`.
    pub security_protocol: Option<SecurityProtocol>,
    /// PEM file of the authority that signed the brokers' certificates; none: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate, where brokers ask for one.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub key_password: Option<Secret>,
    pub sasl_mechanism: Option<SaslMechanism>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Read again at every connection.
    pub password_file: Option<PathBuf>,
    /// Name of this client in the broker's logs and quotas; none: `tailwater`.
    pub client_id: Option<String>,
    pub compression: Compression,
    /// How long to wait for more messages before a batch leaves. 0: at once, yet under load batches form by themselves.
    #[serde(with = "tailwater_core::duration")]
    pub linger: Duration,
    /// Larger messages are refused before they are sent, bytes; none: the topic's own limit.
    pub max_message_bytes: Option<usize>,
    pub partitioner: Partitioner,
    /// Spread keys over this many partitions although the topic may have more by now: a key stays where it is (T40).
    pub pin_partitions: Option<i32>,
    pub topics: Topics,
    /// Topic for messages that cannot be published, when the pipeline's `on_rejected = "dead-letter"`.
    pub dead_letter_topic: Option<String>,
    /// Limit on reaching the cluster.
    #[serde(with = "tailwater_core::duration")]
    pub connect_timeout: Duration,
    /// Publish in transactions that carry the source position: a `read_committed` consumer sees each event once.
    pub exactly_once: bool,
    /// None: `tailwater-NAME` with the pipeline's name.
    pub transactional_id: Option<String>,
    /// Compacted topic that holds the positions of exactly-once pipelines, keyed by pipeline.
    pub offsets_topic: String,
    /// Longest time a transaction stays open while more messages wait.
    #[serde(with = "tailwater_core::duration")]
    pub transaction_interval: Duration,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig {
            bootstrap_servers: vec![],
            security_protocol: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            key_password: None,
            sasl_mechanism: None,
            username: None,
            password: None,
            password_file: None,
            client_id: None,
            compression: Compression::None,
            linger: Duration::ZERO,
            max_message_bytes: None,
            partitioner: Partitioner::Murmur2,
            pin_partitions: None,
            topics: Topics::default(),
            dead_letter_topic: None,
            connect_timeout: Duration::from_secs(10),
            exactly_once: false,
            transactional_id: None,
            offsets_topic: "tailwater-positions".into(),
            transaction_interval: Duration::from_millis(100),
        }
    }
}

impl KafkaConfig {
    /// The protocol in use.
    pub fn protocol(&self) -> SecurityProtocol {
        let secure = if self.username.is_some() { SecurityProtocol::SaslSsl } else { SecurityProtocol::Plaintext };
        self.security_protocol.unwrap_or(secure)
    }

    /// This configuration; where it names no servers, with those of the process and how to log in there.
    pub fn or_servers_of(mut self, process: Option<&KafkaConfig>) -> KafkaConfig {
        let Some(process) = process.filter(|_| self.bootstrap_servers.is_empty()) else { return self };
        let process = process.clone();
        self.bootstrap_servers = process.bootstrap_servers;
        self.security_protocol = process.security_protocol;
        self.ca_file = process.ca_file;
        self.certificate_file = process.certificate_file;
        self.key_file = process.key_file;
        self.key_password = process.key_password;
        self.sasl_mechanism = process.sasl_mechanism;
        self.username = process.username;
        self.password = process.password;
        self.password_file = process.password_file;
        self
    }

    /// What is wrong with it: field and text. Everything at once.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, field: &'static str, text: &str| {
            if !holds {
                problems.push((field, text.to_owned()));
            }
        };
        let sasl = self.protocol().is_sasl();
        let named = !self.bootstrap_servers.is_empty();
        require(named, "bootstrap_servers", "name the brokers: bootstrap_servers = [\"host:9092\"]");
        let legal = self.bootstrap_servers.iter().all(|server| is_server(server));
        require(legal, "bootstrap_servers", "each is host:port, without a scheme and without a password");
        require(
            self.password.is_none() || self.password_file.is_none(),
            "password_file",
            "give password or password_file, not both",
        );
        let known = self.username.is_some() && (self.password.is_some() || self.password_file.is_some());
        require(!sasl || known, "username", "SASL needs username, and password or password_file");
        require(
            !sasl || self.sasl_mechanism.is_some(),
            "sasl_mechanism",
            "write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
        );
        let unused = sasl || (self.username.is_none() && self.password.is_none() && self.password_file.is_none());
        require(unused, "security_protocol", "a username needs SASL_SSL or SASL_PLAINTEXT");
        let tls = self.protocol().is_tls();
        require(tls || self.ca_file.is_none(), "ca_file", "needs security_protocol SSL or SASL_SSL");
        require(
            self.certificate_file.is_some() == self.key_file.is_some(),
            "key_file",
            "certificate_file and key_file belong together",
        );
        require(self.linger <= Duration::from_secs(60), "linger", "at most 60s");
        require(!self.connect_timeout.is_zero(), "connect_timeout", "must be longer than 0");
        require(self.max_message_bytes != Some(0), "max_message_bytes", "at least 1");
        require(self.pin_partitions.is_none_or(|n| n > 0), "pin_partitions", "at least 1");
        require(self.topics.partitions.is_none_or(|n| n > 0), "topics.partitions", "at least 1");
        require(self.topics.replication.is_none_or(|n| n > 0), "topics.replication", "at least 1");
        require(self.topics.refresh >= Duration::from_secs(1), "topics.refresh", "at least 1s");
        let pairs =
            self.topics.config.iter().all(|pair| pair.split_once('=').is_some_and(|(name, _)| !name.trim().is_empty()));
        require(pairs, "topics.config", "each is name=value, as cleanup.policy=compact");
        require(!self.offsets_topic.is_empty(), "offsets_topic", "name a topic");
        let bounded = !self.transaction_interval.is_zero() && self.transaction_interval <= Duration::from_secs(30);
        require(bounded, "transaction_interval", "longer than 0, at most 30s");
        problems
    }
}

/// `host:port`; no URL, so that no password gets into logs.
fn is_server(text: &str) -> bool {
    let plain = !text.contains(['/', '@', ',', ' ']);
    plain && text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProtocol {
    #[serde(rename = "PLAINTEXT", alias = "plaintext")]
    Plaintext,
    #[serde(rename = "SSL", alias = "ssl", alias = "tls")]
    Ssl,
    #[serde(rename = "SASL_PLAINTEXT", alias = "sasl_plaintext")]
    SaslPlaintext,
    #[serde(rename = "SASL_SSL", alias = "sasl_ssl")]
    SaslSsl,
}

impl SecurityProtocol {
    pub fn is_sasl(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
            SecurityProtocol::Ssl => "SSL",
            SecurityProtocol::SaslPlaintext => "SASL_PLAINTEXT",
            SecurityProtocol::SaslSsl => "SASL_SSL",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN", alias = "plain")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256", alias = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512", alias = "scram-sha-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// From a key to a partition. Without a key: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// As the Java client: what Kafka Streams and Kafka Connect join by.
    #[default]
    Murmur2,
    /// As librdkafka by default, hence most clients in C, Python, Go and .NET.
    Crc32,
}

/// What topics should be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Make a topic that is not there (else its messages are refused until it is).
    pub create: bool,
    /// None: the broker's default.
    pub partitions: Option<i32>,
    /// None: the broker's default.
    pub replication: Option<i32>,
    /// `name=value`, as `kafka-topics.sh --config` takes them. Compared with topics that exist.
    pub config: Vec<String>,
    /// How often topics in use are looked at again.
    #[serde(with = "tailwater_core::duration")]
    pub refresh: Duration,
}

impl Default for Topics {
    fn default() -> Self {
        Topics { create: false, partitions: None, replication: None, config: vec![], refresh: Duration::from_secs(30) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> KafkaConfig {
        KafkaConfig { bootstrap_servers: vec!["k1:9092".into(), "[::1]:9092".into()], ..KafkaConfig::default() }
    }

    #[test]
    fn what_cannot_work_is_named() {
        assert_eq!(usable().problems(), vec![]);
        let secret = Some(Secret::new("hidden"));
        let table: Vec<(&str, KafkaConfig)> = vec![
            ("bootstrap_servers", KafkaConfig::default()),
            ("bootstrap_servers", KafkaConfig { bootstrap_servers: vec!["kafka://h:1".into()], ..usable() }),
            ("bootstrap_servers", KafkaConfig { bootstrap_servers: vec!["host".into()], ..usable() }),
            ("username", KafkaConfig { security_protocol: Some(SecurityProtocol::SaslSsl), ..usable() }),
            ("sasl_mechanism", KafkaConfig { username: Some("u".into()), password: secret.clone(), ..usable() }),
            ("security_protocol", KafkaConfig { password: secret, ..usable() }),
            ("key_file", KafkaConfig { certificate_file: Some("c.pem".into()), ..usable() }),
            ("ca_file", KafkaConfig { ca_file: Some("ca.pem".into()), ..usable() }),
            (
                "topics.config",
                KafkaConfig { topics: Topics { config: vec!["compact".into()], ..Topics::default() }, ..usable() },
            ),
        ];
        for (field, config) in table {
            let problems = config.problems();
            assert!(problems.iter().any(|(named, _)| *named == field), "{field}: {problems:?}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let config = KafkaConfig {
            password: Some(Secret::new("hidden")),
            key_password: Some(Secret::new("hidden")),
            ..usable()
        };
        assert!(!format!("{config:?}").contains("hidden"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hidden"));
    }

    #[test]
    fn a_sink_without_servers_takes_those_of_the_process() {
        let process = KafkaConfig { username: Some("relay".into()), compression: Compression::Zstd, ..usable() };
        let sink = KafkaConfig::default().or_servers_of(Some(&process));
        assert_eq!(
            (sink.bootstrap_servers.len(), sink.username.as_deref(), sink.compression),
            (2, Some("relay"), Compression::None)
        );
        let own = KafkaConfig { bootstrap_servers: vec!["own:9092".into()], ..KafkaConfig::default() };
        assert_eq!(own.clone().or_servers_of(Some(&process)), own);
    }
}
