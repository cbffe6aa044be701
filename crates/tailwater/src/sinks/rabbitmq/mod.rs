//! RabbitMQ over AMQP 0-9-1: confirms, `mandatory`, persistent; no off switch for any of the three.

pub mod config;
pub mod connect;
pub mod failure;
pub mod frame;
pub mod window;
