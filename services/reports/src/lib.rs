//! The report service: an example of a service around an outbox and an inbox.
//!
//! ```text
//! POST /reports ─tx─▶ report + outbox ──relay──▶ RabbitMQ ──▶ worker ─tx─▶ export + inbox marker + mail ──▶ mailer
//! ```
//! [`api`] and [`worker`] share nothing but the database and the message. A worker in another language serves as well:
//! examples/reports/worker.py. Not here: log-in, TLS to the database, rendering of anything but CSV.

pub mod api;
pub mod database;
pub mod export;
pub mod mail;
pub mod request;
pub mod worker;
