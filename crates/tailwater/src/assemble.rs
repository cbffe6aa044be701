//! From configuration to parts: which source, route, sink and store a pipeline is made of. Connects to nothing.

use crate::checkpoints::file::FileCheckpoints;
use crate::config::{Config, PipelineConfig, RouteConfig, SourceConfig};
use crate::memory::Share;
use crate::metrics::Status;
use crate::pipeline::{Parts, Pause};
use crate::sinks;
use crate::sources::postgres::PostgresSource;
use crate::sources::postgres_poll::PollSource;
use std::sync::Arc;
use tailwater_core::route::{Compatibility, Route};
use tailwater_core::transform::outbox::{ContextHeaders, OutboxRouter, RouteConfigError, RouteSettings};
use tailwater_core::{Failure, OpenSource};
use uuid::Uuid;

/// All parts of one pipeline; it shares memory with nobody and is never paused, unless the caller changes that.
pub fn pipeline(name: &str, pipeline: &PipelineConfig, config: &Config, status: Arc<Status>) -> Result<Parts, Failure> {
    let source: Arc<dyn OpenSource> = match &pipeline.source {
        SourceConfig::Postgres(postgres) => {
            let mut postgres = postgres.clone();
            // strict compatibility needs what the log does not say: defaults and NOT NULL
            postgres.catalog |= pipeline.route.compatibility == Compatibility::Strict;
            Arc::new(PostgresSource::new(postgres, status.clone()))
        }
        SourceConfig::PostgresPoll(poll) => {
            Arc::new(PollSource::new(poll.clone(), &pipeline.route.outbox.key_column, status.clone()))
        }
    };
    let route =
        route(&pipeline.route).map_err(|error| Failure::fatal("correct the route in the configuration", error))?;
    let ends = sinks::ends(name, pipeline, config, status.clone())?;
    let checkpoints = match ends.checkpoints {
        Some(checkpoints) => checkpoints,
        None => Arc::new(FileCheckpoints::new(&config.state_dir, name)?),
    };
    Ok(Parts {
        source,
        route,
        sink: ends.sink,
        dead_letters: ends.dead_letters,
        checkpoints,
        delivery: pipeline.delivery.clone(),
        status,
        memory: Share::alone(),
        pause: Pause::never(),
    })
}

/// The route alone: `check` builds it to find what is wrong with it.
pub fn route(config: &RouteConfig) -> Result<Box<dyn Route>, RouteConfigError> {
    let settings = RouteSettings {
        compatibility: config.compatibility,
        key_format: config.key_format,
        value_format: config.value_format,
        header_format: config.header_format,
        topic_prefix: config.topic_prefix.clone(),
        only_topics: config.only_topics.clone(),
        negate: config.negate,
        // Debezium's runId is a time-ordered UUID, new at each start.
        context_headers: Some(ContextHeaders { run_id: Uuid::now_v7().to_string(), ..ContextHeaders::default() }),
    };
    Ok(Box::new(OutboxRouter::new(&config.outbox, settings)?))
}
