//! RabbitMQ over AMQP 0-9-1: confirms, `mandatory`, persistent; no off switch for any of the three.
//!
//! A sink holds no connection: each lane's publisher has its own, with one channel. Reconnecting and re-sending are the
//! lane's business.

pub mod address;
pub mod config;
pub mod connect;
mod declare;
pub mod failure;
pub mod frame;
pub mod loops;
pub mod management;
pub mod policy;
pub mod publisher;
pub mod topology;
pub mod window;

use crate::metrics::Status;
use address::Addressing;
use async_trait::async_trait;
use config::RabbitmqConfig;
use connect::Connection;
use failure::{AmqpError, classify};
use publisher::RabbitmqPublisher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tailwater_core::route::Compatibility;
use tailwater_core::{Failure, Publisher, Sink};

/// Publishes to one broker (or cluster) as configured.
pub struct RabbitmqSink {
    config: Arc<RabbitmqConfig>,
    addressing: Arc<Addressing>,
    status: Arc<Status>,
    dead_letters: bool,
    /// Policies were looked at by this process.
    policies_seen: AtomicBool,
}

impl RabbitmqSink {
    /// Looks at nothing but the configuration; the broker is first met by `open`.
    pub fn new(config: RabbitmqConfig, compatibility: Compatibility, status: Arc<Status>) -> Self {
        let addressing = Arc::new(Addressing::new(&config, compatibility));
        RabbitmqSink {
            config: Arc::new(config),
            addressing,
            status,
            dead_letters: false,
            policies_seen: AtomicBool::new(false),
        }
    }

    /// The way to the dead letters: `dead_letter_exchange` with the configured or the original routing key. `None` where
    /// none is configured. The caller adds the header [`address::REASON`]; where the event was meant to go is added here.
    pub fn dead_letters(config: &RabbitmqConfig, status: Arc<Status>) -> Option<Self> {
        let addressing = Arc::new(Addressing::dead_letters(config)?);
        Some(RabbitmqSink {
            config: Arc::new(config.clone()),
            addressing,
            status,
            dead_letters: true,
            policies_seen: AtomicBool::new(true),
        })
    }

    /// What must hold for anything to arrive: the exchange exists. Whether a queue is bound is for `mandatory` to tell.
    async fn prepare(&self, connection: &mut Connection) -> Result<(), AmqpError> {
        if self.config.topology.declare {
            topology::ensure(connection, &self.config.topology).await?;
            if !self.policies_seen.swap(true, Relaxed) {
                topology::ensure_policies(&self.config).await;
            }
        }
        let Some(exchange) = self.addressing.exchange.as_deref().filter(|name| !name.is_empty()) else { return Ok(()) };
        declare::require_exchange(connection, exchange).await
    }
}

#[async_trait]
impl Sink for RabbitmqSink {
    async fn open(&self, lane: u32) -> Result<Box<dyn Publisher>, Failure> {
        let role = if self.dead_letters { "dead letters" } else { "lane" };
        let name = format!("tailwater {} {role} {lane}", self.status.name);
        let mut connection =
            connect::connect(&self.config, &name).await.map_err(|(error, identity)| classify(error, &identity))?;
        let prepared = tokio::time::timeout(self.config.connect_timeout, self.prepare(&mut connection)).await;
        let limit_s = self.config.connect_timeout.as_secs_f32();
        let doing = || format!("look for the exchange at {}", connection.endpoint);
        if let Err(error) = prepared.unwrap_or_else(|_| Err(AmqpError::Timeout { doing: doing(), limit_s })) {
            return Err(classify(error, &connection.identity));
        }
        tracing::info!(endpoint = %connection.endpoint, lane, "connected to the broker");
        Ok(Box::new(RabbitmqPublisher::new(connection, self.addressing.clone(), self.status.clone())))
    }
}
