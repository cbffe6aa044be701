//! PostgreSQL by its log: a slot decoded by `pgoutput`, read over the replication protocol.

pub mod config;
