//! How to reach RabbitMQ, where to publish, what topology to expect. The one place where these settings are defined.

use crate::config::secret::Secret;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// `[pipelines.NAME.sink]` with `type = "rabbitmq"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitmqConfig {
    /// `amqp://user:password@host:5672/vhost` or `amqps://…`; several for several endpoints, tried in order.
    pub urls: Vec<Secret>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub virtual_host: Option<String>,
    /// CA file for `amqps://`; none: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Exchange to publish to. Empty: the topic names the exchange (as Debezium has it).
    pub exchange: String,
    pub routing_key: RoutingKey,
    /// Exchange for messages that cannot be published, when the pipeline's `on_rejected = "dead-letter"`.
    pub dead_letter_exchange: Option<String>,
    /// Routing key for them; none: the message's own.
    pub dead_letter_routing_key: Option<String>,
    /// Strict compatibility: body for a null value, as Debezium's `null.value`. None: an empty body.
    pub null_value: Option<String>,
    #[serde(with = "crate::config::duration")]
    pub heartbeat: Duration,
    /// Limit on TCP connect + handshake.
    #[serde(with = "crate::config::duration")]
    pub connect_timeout: Duration,
    /// `http://user:password@host:15672`: lets `check`, `init` and `run` see arguments, bindings and policies.
    pub management_url: Option<Secret>,
    pub topology: Topology,
}

impl Default for RabbitmqConfig {
    fn default() -> Self {
        RabbitmqConfig {
            urls: vec![],
            username: None,
            password: None,
            password_file: None,
            virtual_host: None,
            ca_file: None,
            exchange: String::new(),
            routing_key: RoutingKey::Topic,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            null_value: None,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            management_url: None,
            topology: Topology::default(),
        }
    }
}

/// `routingKey.source` of Debezium.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoutingKey {
    /// The message's topic.
    #[default]
    Topic,
    /// The message's key (must be UTF-8 of at most 255 bytes).
    Key,
    Static(String),
}

/// What should exist at the broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Declare it at start (else only checked).
    pub declare: bool,
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub name: String,
    /// direct, topic, fanout, headers
    #[serde(rename = "type", default = "topic")]
    pub kind: String,
    #[serde(default = "yes")]
    pub durable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub name: String,
    /// classic or quorum
    #[serde(rename = "type", default)]
    pub kind: QueueKind,
    #[serde(default = "yes")]
    pub durable: bool,
    #[serde(default)]
    pub dead_letter: Option<DeadLetter>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    #[default]
    Classic,
    Quorum,
}

/// Where a queue's rejected messages go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// Empty: the default exchange (the routing key is then a queue's name).
    #[serde(default)]
    pub exchange: String,
    pub routing_key: Option<String>,
    /// By policy (default: every consumer's plain `queue_declare` keeps working) or by queue arguments.
    #[serde(default)]
    pub by: DeadLetterBy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetterBy {
    #[default]
    Policy,
    Argument,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    #[serde(default)]
    pub routing_key: String,
}

fn topic() -> String {
    "topic".into()
}

fn yes() -> bool {
    true
}
