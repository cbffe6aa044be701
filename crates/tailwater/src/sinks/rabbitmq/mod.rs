//! RabbitMQ over AMQP 0-9-1: confirms, `mandatory`, persistent; no off switch for any of the three.
//!
//! A sink holds no connection: each lane's publisher has its own, with one channel. Reconnecting and re-sending are the
//! lane's business.

pub mod address;
pub mod config;
pub mod connect;
pub mod failure;
pub mod frame;
pub mod publisher;
pub mod window;

use crate::metrics::Status;
use address::Addressing;
use async_trait::async_trait;
use config::RabbitmqConfig;
use connect::{CHANNEL, Connection};
use failure::{AmqpError, classify};
use publisher::RabbitmqPublisher;
use std::sync::Arc;
use tailwater_core::route::Compatibility;
use tailwater_core::{Failure, Publisher, Sink};

/// Publishes to one broker (or cluster) as configured.
pub struct RabbitmqSink {
    config: Arc<RabbitmqConfig>,
    addressing: Arc<Addressing>,
    status: Arc<Status>,
    dead_letters: bool,
}

impl RabbitmqSink {
    /// Looks at nothing but the configuration; the broker is first met by `open`.
    pub fn new(config: RabbitmqConfig, compatibility: Compatibility, status: Arc<Status>) -> Self {
        let addressing = Arc::new(Addressing::new(&config, compatibility));
        RabbitmqSink { config: Arc::new(config), addressing, status, dead_letters: false }
    }

    /// The way to the dead letters: `dead_letter_exchange` with the configured or the original routing key. `None` where
    /// none is configured. The caller adds the header [`address::REASON`]; where the event was meant to go is added here.
    pub fn dead_letters(config: &RabbitmqConfig, status: Arc<Status>) -> Option<Self> {
        let addressing = Arc::new(Addressing::dead_letters(config)?);
        Some(RabbitmqSink { config: Arc::new(config.clone()), addressing, status, dead_letters: true })
    }

    /// What the exchange must be for anything to arrive: it exists. Whether a queue is bound is for `mandatory` to tell.
    async fn prepare(&self, connection: &mut Connection) -> Result<(), AmqpError> {
        let Some(exchange) = self.addressing.exchange.as_deref().filter(|name| !name.is_empty()) else { return Ok(()) };
        if exchange.len() > frame::SHORT_MAX {
            return Err(AmqpError::Config(format!("the exchange's name is longer than {} bytes", frame::SHORT_MAX)));
        }
        connection
            .call(CHANNEL, "exchange.declare-ok", |w| {
                w.method(CHANNEL, 40, 10, |w| {
                    w.u16(0);
                    w.short(exchange);
                    w.short("topic"); // not compared: the declaration is passive
                    w.u8(1);
                    w.sized(|_| {});
                })
            })
            .await
            .map(|_| ())
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
