//! What types cannot say: slot names, limits, combinations. Everything that is wrong, at once, each at its origin.

mod route;

use super::origin::{Origins, Problem};
use super::{Config, KafkaConfig, OnRejected, PipelineConfig, RouteKind, SinkConfig, SourceConfig};
use crate::sinks::rabbitmq::config::RabbitmqConfig;
use crate::sources::postgres::config::PostgresConfig;
use crate::sources::postgres::filter::Filter;

/// All problems of a configuration.
pub fn all(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut check = Check { origins, kafka: config.kafka.clone(), problems: vec![] };
    for (field, text) in config.kafka.iter().flat_map(KafkaConfig::problems) {
        check.require(false, &format!("kafka.{field}"), &text);
    }
    check.http(config);
    check.require(config.memory_bytes >= 16 << 20, "memory_bytes", "at least 16777216 (16 MiB)");
    let reachable = config.http.listen.is_some() || !config.pipelines.is_empty();
    check.require(reachable, "http.listen", "no pipeline is configured, and without a port none can be posted");
    for (name, pipeline) in &config.pipelines {
        check.pipeline(name, pipeline);
    }
    check.slots(config);
    check.problems
}

struct Check<'a> {
    origins: &'a Origins,
    /// The process's own, for sinks that name no servers.
    kafka: Option<KafkaConfig>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn require(&mut self, holds: bool, path: &str, text: &str) {
        if !holds {
            self.problems.push(Problem::at(self.origins.of(path), format!("{path}: {text}")));
        }
    }

    fn http(&mut self, config: &Config) {
        if let Some(address) = config.http.listen {
            let safe = address.ip().is_loopback() || config.http.token.as_ref().is_some_and(|t| !t.expose().is_empty());
            self.require(
                safe,
                "http.listen",
                "beyond loopback a token is needed: set http.token (TAILWATER_HTTP__TOKEN)",
            );
        }
    }

    fn pipeline(&mut self, name: &str, pipeline: &PipelineConfig) {
        let at = |part: &str| format!("pipelines.{name}.{part}");
        let legal = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            && name.len() <= 63;
        let here = format!("pipelines.{name}");
        self.require(legal, &here, "a pipeline's name is a letter, then letters, digits, _ or -, at most 63 in all");
        match &pipeline.source {
            SourceConfig::Postgres(source) => self.log_source(name, source),
            SourceConfig::PostgresPoll(source) => {
                for (field, text) in source.problems() {
                    self.require(false, &at(&format!("source.{field}")), text);
                }
                let text = "a polled table needs no pruning: rows are deleted when they are published (with done = \"mark\", \
                            delete marked rows when they are old enough)";
                self.require(pipeline.prune.is_none(), &at("prune"), text);
                let lsn = pipeline.route.outbox.lsn_header.is_none();
                let text = "a polled row has no place in the log: remove lsn_header, or read the log";
                self.require(lsn, &at("route.outbox.lsn_header"), text);
                let once = matches!(&pipeline.sink, SinkConfig::Kafka(sink) if sink.exactly_once);
                let text = "rows are deleted after they are published, so a crash in between repeats them: polling cannot keep \
                            this promise; read the log, or let consumers skip what they know";
                self.require(!once, &at("sink.exactly_once"), text);
            }
        }
        let connection = pipeline.source.connection();
        let located = connection.url.is_some() || connection.host.is_some();
        self.require(located, &at("source"), "name the database: url = \"postgres://…\" or host, user, dbname");
        self.route(name, pipeline);
        match pipeline.route.kind {
            RouteKind::Outbox => self.outbox(name, pipeline),
            RouteKind::Changes => self.changes(name, pipeline),
        }
        self.delivery(name, pipeline);
        match &pipeline.sink {
            SinkConfig::Rabbitmq(sink) => self.rabbitmq(name, pipeline, sink),
            SinkConfig::Kafka(sink) => self.kafka(name, pipeline, sink),
            SinkConfig::Stdout => {}
        }
    }

    fn log_source(&mut self, name: &str, source: &PostgresConfig) {
        let at = |part: &str| format!("pipelines.{name}.{part}");
        let slot = !source.slot.is_empty()
            && source.slot.len() <= 63
            && source.slot.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        self.require(slot, &at("source.slot"), "a slot's name is 1 to 63 of a-z, 0-9 and _");
        self.require(!source.publication.is_empty(), &at("source.publication"), "name the publication to read");
        self.require(
            source.publication.len() <= 63,
            &at("source.publication"),
            "a publication's name has at most 63 bytes",
        );
        if let Err(error) = Filter::new(&source.tables) {
            self.require(false, &at("source.tables"), &error);
        }
    }

    /// A slot has one reader: two pipelines on one would take turns for ever.
    fn slots(&mut self, config: &Config) {
        let mut seen = std::collections::HashMap::new();
        for (name, pipeline) in &config.pipelines {
            let Some(source) = pipeline.source.log() else { continue };
            let server = (&source.connection.url, &source.connection.host, source.connection.port);
            let key =
                format!("{:?}{}{}", (server.1, server.2), server.0.as_ref().map_or("", |u| u.expose()), source.slot);
            if let Some(first) = seen.insert(key, name) {
                let text = format!("pipeline {first} reads this slot already: each needs its own");
                self.require(false, &format!("pipelines.{name}.source.slot"), &text);
            }
        }
    }

    fn delivery(&mut self, name: &str, pipeline: &PipelineConfig) {
        let at = |part: &str| format!("pipelines.{name}.delivery.{part}");
        let delivery = &pipeline.delivery;
        self.require((1..=64).contains(&delivery.lanes), &at("lanes"), "from 1 to 64");
        self.require((1..=65535).contains(&delivery.window), &at("window"), "from 1 to 65535 messages");
        self.require(delivery.memory_bytes >= 1 << 20, &at("memory_bytes"), "at least 1048576 (1 MiB)");
        self.require(!delivery.confirm_interval.is_zero(), &at("confirm_interval"), "must be longer than 0");
        self.require(!delivery.drain_timeout.is_zero(), &at("drain_timeout"), "must be longer than 0");
        if let Some(prune) = &pipeline.prune {
            let prune_at = |part: &str| format!("pipelines.{name}.prune.{part}");
            self.require(!prune.every.is_zero(), &prune_at("every"), "must be longer than 0");
            self.require(prune.batch > 0, &prune_at("batch"), "at least 1 row");
        }
    }

    fn kafka(&mut self, name: &str, pipeline: &PipelineConfig, sink: &KafkaConfig) {
        let at = |part: &str| format!("pipelines.{name}.sink.{part}");
        let built = cfg!(feature = "kafka");
        self.require(built, &at("type"), "this binary was built without Kafka: build it with the feature `kafka`");
        for (field, text) in sink.clone().or_servers_of(self.kafka.as_ref()).problems() {
            self.require(false, &at(field), &text);
        }
        if pipeline.delivery.on_rejected == OnRejected::DeadLetter {
            let named = sink.dead_letter_topic.as_ref().is_some_and(|name| !name.is_empty());
            self.require(named, &at("dead_letter_topic"), "on_rejected = \"dead-letter\" needs a topic to send to");
        }
        let one = !sink.exactly_once || pipeline.delivery.lanes == 1;
        let lanes = format!("pipelines.{name}.delivery.lanes");
        self.require(one, &lanes, "exactly_once needs lanes = 1: one transaction holds events and position");
    }

    fn rabbitmq(&mut self, name: &str, pipeline: &PipelineConfig, sink: &RabbitmqConfig) {
        let at = |part: &str| format!("pipelines.{name}.sink.{part}");
        let amqp = |url: &str| url.starts_with("amqp://") || url.starts_with("amqps://");
        self.require(!sink.urls.is_empty(), &at("urls"), "name the broker: urls = [\"amqp://user@host:5672\"]");
        let legal = sink.urls.iter().all(|url| amqp(url.expose()));
        self.require(legal, &at("urls"), "each begins with amqp:// or amqps://");
        let one = sink.password.is_none() || sink.password_file.is_none();
        self.require(one, &at("password_file"), "give password or password_file, not both");
        self.require(!sink.connect_timeout.is_zero(), &at("connect_timeout"), "must be longer than 0");
        self.require(sink.heartbeat.as_secs() <= 65535, &at("heartbeat"), "at most 65535s");
        self.require(sink.exchange.len() <= 255, &at("exchange"), "at most 255 bytes");
        if pipeline.delivery.on_rejected == OnRejected::DeadLetter {
            let named = sink.dead_letter_exchange.as_ref().is_some_and(|name| !name.is_empty());
            self.require(
                named,
                &at("dead_letter_exchange"),
                "on_rejected = \"dead-letter\" needs an exchange to send to",
            );
        }
    }
}
