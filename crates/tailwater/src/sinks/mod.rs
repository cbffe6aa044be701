//! Where messages go. A new sink is one file, one line here, one conformance test.

pub mod kafka;
pub mod rabbitmq;
pub mod stdout;

use crate::config::{Config, OnRejected, PipelineConfig, SinkConfig};
use crate::metrics::Status;
use std::sync::Arc;
use tailwater_core::{Checkpoints, Failure, Sink};

/// A pipeline's far end.
pub struct Ends {
    pub sink: Arc<dyn Sink>,
    pub dead_letters: Option<Arc<dyn Sink>>,
    /// For sinks that keep the position themselves; `None`: the state directory.
    pub checkpoints: Option<Arc<dyn Checkpoints>>,
}

/// The far end that a configuration asks for. Connects to nothing.
pub fn ends(name: &str, pipeline: &PipelineConfig, config: &Config, status: Arc<Status>) -> Result<Ends, Failure> {
    match &pipeline.sink {
        SinkConfig::Rabbitmq(sink) => {
            let mut dead_letters: Option<Arc<dyn Sink>> = None;
            if pipeline.delivery.on_rejected == OnRejected::DeadLetter {
                let letters = rabbitmq::RabbitmqSink::dead_letters(sink, status.clone());
                dead_letters = Some(Arc::new(letters.ok_or_else(|| no_place(name, "dead_letter_exchange"))?));
            }
            let sink = rabbitmq::RabbitmqSink::new(sink.clone(), pipeline.route.compatibility, status);
            Ok(Ends { sink: Arc::new(sink), dead_letters, checkpoints: None })
        }
        SinkConfig::Kafka(sink) => kafka::ends(name, pipeline, sink, config, status),
        SinkConfig::Stdout => {
            status.sink_seen.always();
            Ok(Ends { sink: Arc::new(stdout::StdoutSink::new()), dead_letters: None, checkpoints: None })
        }
    }
}

fn no_place(name: &str, setting: &str) -> Failure {
    Failure::fatal(
        format!("set pipelines.{name}.sink.{setting}, or on_rejected = \"stop\""),
        "on_rejected = \"dead-letter\" needs a place for dead letters",
    )
}
