//! Kafka over librdkafka: idempotent, `acks=all`, without a time limit on a message; no off switch for any of the three.
//!
//! A crate of its own, so that its C build stays out of everybody's way. A sink holds no connection: each lane's publisher
//! has its own producer. Within a publisher's life librdkafka reconnects and repeats by itself, without duplicates and
//! without gaps; what it gives up is repeated by the lane through a new publisher.
//!
//! Without the feature `client` there is only [`KafkaConfig`], so that a configuration can be read and refused by name.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod cluster;
pub mod config;
#[cfg(feature = "client")]
mod context;
#[cfg(feature = "client")]
mod exactly_once;
#[cfg(feature = "client")]
pub mod failure;
#[cfg(feature = "client")]
mod flight;
#[cfg(feature = "client")]
mod outlet;
pub mod partition;
#[cfg(feature = "client")]
mod positions;
#[cfg(feature = "client")]
mod producer;
#[cfg(feature = "client")]
mod publisher;
#[cfg(feature = "client")]
mod record;
#[cfg(feature = "client")]
mod sink;
#[cfg(feature = "client")]
mod topics;
#[cfg(feature = "client")]
mod transaction;
#[cfg(feature = "client")]
mod window;

pub use config::KafkaConfig;
#[cfg(feature = "client")]
pub use sink::{KafkaSink, Observer, Unobserved};
