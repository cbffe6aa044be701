//! PostgreSQL by its log: a slot decoded by `pgoutput`, read over the replication protocol.
//!
//! ```text
//!   config ─▶ target ─▶ socket ─▶ client (start-up, queries) ─▶ slot (checks, standby) ─▶ stream ─▶ changes
//!                                                                └▶ snapshot (first start) ─┘
//!   connect (ordinary SQL) ─▶ watch (publication, table, shutdown of the server)
//! ```

pub mod client;
pub mod config;
pub mod connect;
pub mod failure;
mod socket;
pub mod target;
