//! Private real servers for tests, demo and benchmarks: PostgreSQL, RabbitMQ and Kafka in a temporary directory on free ports,
//! a fault proxy, load writers, and helpers that wait for a state instead of sleeping.
//!
//! Not a mock of anything, and never part of the relay itself. A server that is not installed is a panic that names the
//! packages to install, never a skipped test. What is started here ends with the process that started it: by
//! `PR_SET_PDEATHSIG`, by a guard process that notices the owner's end, and by the next start, which sweeps what is left.

pub mod browser;
mod child;
mod clock;
mod http;
mod kafka;
mod kafka_records;
mod load;
pub mod orders;
mod ports;
mod postgres;
mod process;
mod proxy;
pub mod rabbit;
mod rabbitmq;
mod tls;
mod wait;
mod workdir;

pub use child::{Child, python, tailwater_binary};
pub use clock::Clock;
pub use http::{HttpAnswer, http_get, http_request};
pub use kafka::{KAFKA_VERSION, Kafka, KafkaOptions, Listener, shared_kafka};
pub use kafka_records::Record;
pub use load::{Committed, Load, LoadOptions};
pub use ports::free_port;
pub use postgres::{Postgres, PostgresOptions, StopMode, postgres_program, shared_postgres};
pub use proxy::Proxy;
pub use rabbit::{Rabbit, Received};
pub use rabbitmq::{RabbitMq, RabbitMqOptions, shared_rabbitmq};
pub use tls::Authority;
pub use wait::{eventually, note, unique};
pub use workdir::WorkDir;
