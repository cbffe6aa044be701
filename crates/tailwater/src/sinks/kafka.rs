//! Kafka, as a pipeline's sink: the crate `tailwater-kafka`, told to say in [`Status`] how the cluster is doing.
//!
//! Without the feature `kafka` there is a sentence instead.

use super::Ends;
use crate::config::{Config, KafkaConfig, PipelineConfig};
use crate::metrics::Status;
use std::sync::Arc;
use tailwater_core::Failure;

#[cfg(not(feature = "kafka"))]
pub fn ends(_: &str, _: &PipelineConfig, _: &KafkaConfig, _: &Config, _: Arc<Status>) -> Result<Ends, Failure> {
    let hint = "build it with the feature `kafka` (cargo build --features kafka)";
    Err(Failure::fatal(hint, "this binary was built without Kafka"))
}

#[cfg(feature = "kafka")]
pub use observed::{StatusObserver, ends};

#[cfg(feature = "kafka")]
mod observed {
    use super::*;
    use crate::config::OnRejected;
    use crate::metrics::State;
    use tailwater_core::Sink;
    use tailwater_kafka::{KafkaSink, Observer, Unobserved};

    /// Sink and dead letters of a pipeline that publishes to Kafka.
    pub fn ends(
        name: &str,
        pipeline: &PipelineConfig,
        sink: &KafkaConfig,
        config: &Config,
        status: Arc<Status>,
    ) -> Result<Ends, Failure> {
        let sink = sink.clone().or_servers_of(config.kafka.as_ref());
        let mut dead_letters: Option<Arc<dyn Sink>> = None;
        if pipeline.delivery.on_rejected == OnRejected::DeadLetter {
            let letters = KafkaSink::dead_letters(&sink, name, Arc::new(Unobserved))?;
            let letters = letters.ok_or_else(|| super::super::no_place(name, "dead_letter_topic"))?;
            dead_letters = Some(Arc::new(letters));
        }
        let sink = KafkaSink::new(sink, name, Arc::new(StatusObserver(status)))?;
        let checkpoints = sink.checkpoints();
        Ok(Ends { sink: Arc::new(sink), dead_letters, checkpoints })
    }

    /// Writes what a Kafka client sees into a pipeline's status.
    #[derive(Debug)]
    pub struct StatusObserver(pub Arc<Status>);

    impl Observer for StatusObserver {
        fn seen(&self) {
            self.0.sink_seen.touch();
        }

        fn gone(&self) {
            self.0.sink_seen.clear();
        }

        fn away(&self, lane: u32, error: &str) {
            self.0.trouble(lane, State::Retrying { what: "publish".into(), error: error.to_owned() });
        }

        fn back(&self, lane: u32) {
            self.0.recovered(lane);
        }
    }
}
