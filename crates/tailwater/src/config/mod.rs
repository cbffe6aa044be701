//! What the operator wants, typed, with the origin of each value.
//!
//! Every front end (TOML, `application.properties`, environment, `--from/--to`) ends in [`Config`]. Connector settings are
//! defined next to their connector and only referred to here.

pub mod connector;
pub mod debezium;
pub mod environment;
mod expand;
pub mod flags;
pub mod load;
pub mod native;
pub mod origin;
pub mod properties;
pub mod settings;
pub mod validate;

pub use tailwater_core::{duration, secret};

use crate::sinks::rabbitmq::config::RabbitmqConfig;
use crate::sources::postgres::config::{Connection, PostgresConfig};
use crate::sources::postgres_poll::config::PollConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tailwater_core::route::{Compatibility, Format};
use tailwater_core::transform::chain::Link;
use tailwater_core::transform::changes::ChangeOptions;
use tailwater_core::transform::outbox::OutboxOptions;
pub use tailwater_kafka::KafkaConfig;

/// The whole configuration of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Positions are kept here, one file a pipeline.
    pub state_dir: PathBuf,
    /// Bytes in flight over all pipelines; `delivery.memory_bytes` is the limit of each. How it is shared: `memory.rs`.
    pub memory_bytes: usize,
    pub http: HttpConfig,
    /// The process's own Kafka: for sinks that name no servers, and for pipelines defined over HTTP.
    pub kafka: Option<KafkaConfig>,
    pub pipelines: BTreeMap<String, PipelineConfig>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Health, metrics, status. `None` in the file (`listen = ""`): no port.
    #[serde(deserialize_with = "address")]
    pub listen: Option<SocketAddr>,
    /// Required as soon as `listen` is not loopback.
    pub token: Option<secret::Secret>,
    /// A peer that was silent for longer makes `/health/ready` say no.
    #[serde(with = "duration")]
    pub ready_window: Duration,
}

/// One pipeline: source → route → sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    pub source: SourceConfig,
    #[serde(default)]
    pub route: RouteConfig,
    pub sink: SinkConfig,
    #[serde(default)]
    pub delivery: DeliveryConfig,
    /// A connection of the table's owner, for `init` and `prune`; `run` never uses it, but for scheduled pruning.
    #[serde(default)]
    pub admin: Option<Connection>,
    #[serde(default)]
    pub prune: Option<PruneConfig>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// By its log.
    Postgres(PostgresConfig),
    /// By polling its outbox table.
    #[serde(rename = "postgres-poll")]
    PostgresPoll(PollConfig),
}

impl SourceConfig {
    /// How the database is reached.
    pub fn connection(&self) -> &Connection {
        match self {
            SourceConfig::Postgres(source) => &source.connection,
            SourceConfig::PostgresPoll(source) => &source.connection,
        }
    }

    /// The outbox table; empty where change events of several are read.
    pub fn table(&self) -> &str {
        match self {
            SourceConfig::Postgres(source) => &source.table,
            SourceConfig::PostgresPoll(source) => &source.table,
        }
    }

    /// The source, if it reads the log.
    pub fn log(&self) -> Option<&PostgresConfig> {
        match self {
            SourceConfig::Postgres(source) => Some(source),
            SourceConfig::PostgresPoll(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SinkConfig {
    Rabbitmq(RabbitmqConfig),
    Kafka(KafkaConfig),
    Stdout,
}

/// What the rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Rows inserted into one table are events: `route.outbox` says how they are read.
    #[default]
    Outbox,
    /// Every change of every captured table is an event, in Debezium's envelope: `route.changes`.
    Changes,
}

/// From a row to a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    pub kind: RouteKind,
    pub compatibility: Compatibility,
    pub outbox: OutboxOptions,
    pub changes: ChangeOptions,
    /// What change events go through before they are written, in this order.
    pub transforms: Vec<Link>,
    /// `None`: text for an outbox, JSON for change events, whose keys are structs.
    pub key_format: Option<Format>,
    pub value_format: Format,
    pub header_format: Format,
    /// `{"schema":…,"payload":…}` around a JSON key.
    pub key_schemas: bool,
    /// The same around a JSON body.
    pub value_schemas: bool,
    /// The same around JSON texts in headers.
    pub header_schemas: bool,
    /// Decimals in JSON keys of change events are numbers, not bytes in base64 (`decimal.format=NUMERIC`).
    pub key_numeric: bool,
    /// The same in JSON bodies.
    pub value_numeric: bool,
    /// Debezium's `topic.prefix`: first part of a change event's topic, logical name in strict headers, and prefix of the
    /// topics that predicates look at.
    pub topic_prefix: String,
    /// Java regular expression over `prefix.schema.table`: only these tables are outboxes (predicate `TopicNameMatches`).
    pub only_topics: Option<String>,
    /// The predicate's `negate`.
    pub negate: bool,
}

/// How much travels at once, and what happens to what the broker refuses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliveryConfig {
    /// Ordered paths to the broker; messages are spread over them by key.
    pub lanes: u32,
    /// Unconfirmed messages per lane.
    pub window: usize,
    /// Bytes in flight, over all lanes: the one limit on memory.
    pub memory_bytes: usize,
    pub order: Order,
    pub on_rejected: OnRejected,
    /// How often the saved position is written and confirmed while there is traffic.
    #[serde(with = "duration")]
    pub confirm_interval: Duration,
    /// Limit on draining at shutdown.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Per key, always but after a refusal by the broker (see docs/delivery.md).
    #[default]
    Key,
    /// One unconfirmed message per lane: order holds after refusals too.
    Strict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRejected {
    /// Hold, visibly; go on by itself once the event is taken.
    #[default]
    Stop,
    DeadLetter,
}

/// Deletes delivered rows on a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneConfig {
    #[serde(with = "duration")]
    pub every: Duration,
    #[serde(with = "duration")]
    pub older_than: Duration,
    /// Column that holds a row's age; `None`: `occurred_at`, `created_at` or the like, if there is exactly one.
    pub age_column: Option<String>,
    pub batch: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: PathBuf::from("tailwater-state"),
            memory_bytes: 256 << 20,
            http: HttpConfig::default(),
            kafka: None,
            pipelines: BTreeMap::new(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8083))),
            token: None,
            ready_window: Duration::from_secs(15),
        }
    }
}

impl RouteConfig {
    /// Whether anything is written with its schema.
    pub fn has_schemas(&self) -> bool {
        self.key_schemas || self.value_schemas || self.header_schemas
    }

    /// Format of keys, by what is routed unless it is written.
    pub fn key_format(&self) -> Format {
        self.key_format.unwrap_or(match self.kind {
            RouteKind::Outbox => Format::String,
            RouteKind::Changes => Format::Json,
        })
    }
}

impl Default for RouteConfig {
    fn default() -> Self {
        RouteConfig {
            kind: RouteKind::default(),
            compatibility: Compatibility::Default,
            outbox: OutboxOptions::default(),
            changes: ChangeOptions::default(),
            transforms: Vec::new(),
            key_format: None,
            value_format: Format::Json,
            header_format: Format::Plain,
            key_schemas: false,
            value_schemas: false,
            header_schemas: false,
            key_numeric: false,
            value_numeric: false,
            topic_prefix: "tailwater".into(),
            only_topics: None,
            negate: false,
        }
    }
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        DeliveryConfig {
            lanes: 1,
            window: 2000,
            memory_bytes: 64 << 20,
            order: Order::Key,
            on_rejected: OnRejected::Stop,
            confirm_interval: Duration::from_millis(250),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for PruneConfig {
    fn default() -> Self {
        PruneConfig {
            every: Duration::from_secs(60),
            older_than: Duration::from_secs(24 * 3600),
            age_column: None,
            batch: 5000,
        }
    }
}

fn address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |_| serde::de::Error::custom(format!("`{text}` is not an address: write 127.0.0.1:8083 or [::1]:8083"));
    text.parse().map(Some).map_err(wrong)
}
