//! Where the dead letters are: said on the command line, or found in a pipeline's configuration.

use crate::cli::GlobalArgs;
use crate::cli::admin::AdminArgs;
use crate::config::origin::ConfigError;
use crate::config::secret::Secret;
use crate::config::{PipelineConfig, SinkConfig};
use crate::dlq::DeadLetters;
use crate::dlq::rabbitmq::Queue;
use crate::sinks::rabbitmq::config::RabbitmqConfig;
use clap::Args;
use std::path::PathBuf;
use tailwater_core::Failure;
use tailwater_kafka::KafkaConfig;

/// `--from URL` (a global option) names the broker; else the configuration does.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// RabbitMQ queue of dead letters [default: the pipeline's]
    #[arg(long, value_name = "NAME", conflicts_with = "topic", help_heading = "Where")]
    pub queue: Option<String>,
    /// Kafka topic of dead letters [default: the pipeline's]
    #[arg(long, value_name = "NAME", help_heading = "Where")]
    pub topic: Option<String>,
    /// The pipeline whose broker is meant [default: the only one]
    #[arg(long, value_name = "NAME", help_heading = "Where")]
    pub pipeline: Option<String>,
    /// With --from amqps://: the authority that signed the broker's certificate [default: the system's]
    #[arg(long, value_name = "FILE", help_heading = "Where")]
    pub ca_file: Option<PathBuf>,
}

/// A place that can be opened.
#[derive(Debug)]
pub enum Opening {
    Rabbitmq { config: Box<RabbitmqConfig>, queue: String },
    Kafka { config: Box<KafkaConfig>, topic: String },
}

pub enum Refusal {
    Config(ConfigError),
    Usage(String),
}

impl Opening {
    pub async fn open(&self) -> Result<Box<dyn DeadLetters>, Failure> {
        match self {
            Opening::Rabbitmq { config, queue } => Ok(Box::new(Queue::open(config, queue).await?)),
            #[cfg(feature = "kafka")]
            Opening::Kafka { config, topic } => Ok(Box::new(crate::dlq::kafka::Topic::open(config, topic).await?)),
            #[cfg(not(feature = "kafka"))]
            Opening::Kafka { .. } => {
                Err(Failure::fatal("build it with the feature `kafka`", "this program knows no Kafka"))
            }
        }
    }
}

impl PlaceArgs {
    /// Reads the configuration unless `--from` names a broker.
    pub fn resolve(&self, global: &GlobalArgs) -> Result<Opening, Refusal> {
        let usage = |why: String| Refusal::Usage(why);
        if let Some(url) = global.from.as_deref().filter(|url| !url.starts_with("postgres")) {
            return self.at(url).map_err(usage);
        }
        let loaded = crate::cli::load(global).map_err(Refusal::Config)?;
        let chosen = AdminArgs { pipeline: self.pipeline.clone(), admin_url: None };
        let pipelines = chosen.pipelines(&loaded.config).map_err(usage)?;
        let [(name, pipeline)] = pipelines[..] else {
            let names: Vec<&str> = pipelines.iter().map(|(name, _)| name.as_str()).collect();
            return Err(usage(format!("several pipelines: say which with --pipeline ({})", names.join(", "))));
        };
        self.of(name, pipeline, loaded.config.kafka.as_ref()).map_err(usage)
    }

    fn at(&self, url: &str) -> Result<Opening, String> {
        if let Some(servers) = url.strip_prefix("kafka://") {
            let topic = self.topic.clone().ok_or("say which topic: --topic NAME")?;
            let bootstrap_servers = servers.trim_end_matches('/').split(',').map(str::to_owned).collect();
            let config = KafkaConfig { bootstrap_servers, ..KafkaConfig::default() };
            if let Some((field, why)) = config.problems().first() {
                return Err(format!("--from: {field}: {why}"));
            }
            return Ok(Opening::Kafka { config: Box::new(config), topic });
        }
        if !(url.starts_with("amqp://") || url.starts_with("amqps://")) {
            return Err("--from: it must begin with amqp://, amqps:// or kafka://".into());
        }
        let queue = self.queue.clone().ok_or("say which queue: --queue NAME")?;
        let config =
            RabbitmqConfig { urls: vec![Secret::new(url)], ca_file: self.ca_file.clone(), ..RabbitmqConfig::default() };
        Ok(Opening::Rabbitmq { config: Box::new(config), queue })
    }

    fn of(&self, name: &str, pipeline: &PipelineConfig, process: Option<&KafkaConfig>) -> Result<Opening, String> {
        match &pipeline.sink {
            SinkConfig::Rabbitmq(config) => {
                let queue = match (&self.queue, &queues(config)[..]) {
                    (Some(queue), _) => queue.clone(),
                    (None, [queue]) => queue.clone(),
                    (None, []) => {
                        return Err(format!("pipeline {name} names no queue of dead letters: say which with --queue"));
                    }
                    (None, several) => {
                        return Err(format!(
                            "pipeline {name} has several queues of dead letters: say which with --queue ({})",
                            several.join(", ")
                        ));
                    }
                };
                Ok(Opening::Rabbitmq { config: Box::new(config.clone()), queue })
            }
            SinkConfig::Kafka(config) => {
                let config = config.clone().or_servers_of(process);
                let topic = self.topic.clone().or_else(|| config.dead_letter_topic.clone());
                let unnamed = || format!("pipeline {name} names no topic of dead letters: say which with --topic");
                Ok(Opening::Kafka { topic: topic.ok_or_else(unnamed)?, config: Box::new(config) })
            }
            SinkConfig::Stdout => Err(format!("pipeline {name} publishes to stdout: there are no dead letters")),
        }
    }
}

/// The queues that dead letters end in, as far as the configuration says.
fn queues(config: &RabbitmqConfig) -> Vec<String> {
    let topology = &config.topology;
    let of_queues = topology.queues.iter().filter_map(|queue| queue.dead_letter.as_ref());
    let of_queues = of_queues.map(|dead| (dead.exchange.as_str(), dead.routing_key.as_deref()));
    let of_relay =
        config.dead_letter_exchange.as_deref().map(|exchange| (exchange, config.dead_letter_routing_key.as_deref()));
    let mut found: Vec<String> = Vec::new();
    for (exchange, routing_key) in of_queues.chain(of_relay) {
        let bound = topology.bindings.iter().filter(|binding| !exchange.is_empty() && binding.exchange == exchange);
        let direct = routing_key.filter(|_| exchange.is_empty()).map(str::to_owned);
        found.extend(direct.into_iter().chain(bound.map(|binding| binding.queue.clone())));
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::rabbitmq::config::{Binding, DeadLetter, DeadLetterBy, Queue, QueueKind, Topology};

    #[test]
    fn the_configuration_knows_its_queues_of_dead_letters() {
        let dead = DeadLetter { exchange: String::new(), routing_key: Some("q-dlq".into()), by: DeadLetterBy::Policy };
        let queue =
            |name: &str, dead_letter| Queue { name: name.into(), kind: QueueKind::Classic, durable: true, dead_letter };
        let bind = |queue: &str| Binding { exchange: "dead".into(), queue: queue.into(), routing_key: "#".into() };
        let topology = Topology {
            queues: vec![queue("q", Some(dead)), queue("q-dlq", None)],
            bindings: vec![bind("relay-dlq"), Binding { exchange: "events".into(), ..bind("q") }],
            ..Topology::default()
        };
        let config =
            RabbitmqConfig { topology, dead_letter_exchange: Some("dead".into()), ..RabbitmqConfig::default() };
        assert_eq!(queues(&config), ["q-dlq", "relay-dlq"]);
        assert!(queues(&RabbitmqConfig::default()).is_empty());
    }
}
