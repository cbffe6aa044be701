//! From configuration to parts: which source, route, sink and store a pipeline is made of. Connects to nothing.

use crate::checkpoints::file::FileCheckpoints;
use crate::config::{Config, PipelineConfig, RouteConfig, RouteKind, SourceConfig};
use crate::memory::Share;
use crate::metrics::Status;
use crate::pipeline::{Parts, Pause};
use crate::sinks;
use crate::sources::postgres::{PostgresSource, TableCheck};
use crate::sources::postgres_poll::PollSource;
use std::sync::{Arc, Mutex, PoisonError};
use tailwater_core::encode::connect::{Converter, Converters};
use tailwater_core::route::{Compatibility, Route};
use tailwater_core::transform::chain::{ChainConfigError, ChainRoute, Link, Predicate, Transform};
use tailwater_core::transform::changes::{ChangeConfigError, ChangeOptions, ChangeRouter, ChangeSettings};
use tailwater_core::transform::outbox::{ContextHeaders, OutboxRouter, RouteConfigError, RouteSettings};
use tailwater_core::{Failure, OpenSource};
use uuid::Uuid;

/// All parts of one pipeline; it shares memory with nobody and is never paused, unless the caller changes that.
pub fn pipeline(name: &str, pipeline: &PipelineConfig, config: &Config, status: Arc<Status>) -> Result<Parts, Failure> {
    let wrong = |error: RouteError| Failure::fatal("correct the route in the configuration", error);
    let source: Arc<dyn OpenSource>;
    let mut database = String::new();
    match &pipeline.source {
        SourceConfig::Postgres(postgres) => {
            let mut postgres = postgres.clone();
            // strict compatibility and schemas need what the log does not say: defaults and NOT NULL
            postgres.catalog |= pipeline.route.compatibility == Compatibility::Strict || pipeline.route.has_schemas();
            database = postgres.connection.database();
            let mut reader = PostgresSource::new(postgres, status.clone());
            if pipeline.route.kind == RouteKind::Changes {
                let check = table_check(&pipeline.route, &database)
                    .map_err(|error| wrong(ChainConfigError::from(error).into()))?;
                reader = reader.checking(check);
            }
            source = Arc::new(reader);
        }
        SourceConfig::PostgresPoll(poll) => {
            source = Arc::new(PollSource::new(poll.clone(), &pipeline.route.outbox.key_column, status.clone()));
        }
    }
    let route = route(&pipeline.route, &database).map_err(wrong)?;
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

/// The route alone: `check` builds it to find what is wrong with it. `database`: what change events call it.
pub fn route(config: &RouteConfig, database: &str) -> Result<Box<dyn Route>, RouteError> {
    if config.kind == RouteKind::Outbox && !config.has_schemas() {
        return Ok(Box::new(outbox(config)?));
    }
    let (links, changes) = match config.kind {
        RouteKind::Changes => (config.transforms.clone(), config.changes.clone()),
        // the router as a link writes the schemas, too
        RouteKind::Outbox => (vec![outbox_link(config)], ChangeOptions::default()),
    };
    Ok(Box::new(ChainRoute::new(&links, &changes, &settings(config, database), converters(config))?))
}

fn outbox_link(config: &RouteConfig) -> Link {
    let predicate = config.only_topics.clone().map(Predicate::TopicNameMatches);
    Link { transform: Transform::EventRouter(config.outbox.clone()), predicate, negate: config.negate }
}

/// What is wrong with a route, whichever kind it is of.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Outbox(#[from] RouteConfigError),
    #[error(transparent)]
    Chain(#[from] ChainConfigError),
}

fn outbox(config: &RouteConfig) -> Result<OutboxRouter, RouteConfigError> {
    let settings = RouteSettings {
        compatibility: config.compatibility,
        key_format: config.key_format(),
        value_format: config.value_format,
        header_format: config.header_format,
        topic_prefix: config.topic_prefix.clone(),
        only_topics: config.only_topics.clone(),
        negate: config.negate,
        context_headers: Some(context()),
    };
    OutboxRouter::new(&config.outbox, settings)
}

fn settings(config: &RouteConfig, database: &str) -> ChangeSettings {
    ChangeSettings {
        compatibility: config.compatibility,
        topic_prefix: config.topic_prefix.clone(),
        database: database.to_owned(),
        context_headers: (config.compatibility == Compatibility::Strict).then(context),
        ..ChangeSettings::default()
    }
}

fn converters(config: &RouteConfig) -> Converters {
    let converter = |format, schemas| Converter::of(format, schemas, config.compatibility);
    Converters {
        key: Converter { numeric: config.key_numeric, ..converter(config.key_format(), config.key_schemas) },
        value: Converter { numeric: config.value_numeric, ..converter(config.value_format, config.value_schemas) },
        header: converter(config.header_format, config.header_schemas),
    }
}

/// Debezium's runId is a time-ordered UUID, new at each start.
fn context() -> ContextHeaders {
    ContextHeaders { run_id: Uuid::now_v7().to_string(), ..ContextHeaders::default() }
}

/// Judges tables as the route of change events will: what it could not write is said before the first change.
fn table_check(config: &RouteConfig, database: &str) -> Result<TableCheck, ChangeConfigError> {
    let router = Mutex::new(ChangeRouter::new(&config.changes, &settings(config, database))?);
    Ok(Arc::new(move |relation| router.lock().unwrap_or_else(PoisonError::into_inner).check(relation)))
}
