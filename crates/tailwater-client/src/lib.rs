//! Outbox and inbox for services that share a database transaction with their events.
//!
//! - [`outbox::publish`] writes an event as a row of the outbox table, in *your* transaction: the event goes out if and only if
//!   the transaction commits. A relay (`tailwater run`) carries the row to the broker.
//! - [`inbox::once`] runs a handler at most once per `(source, id)`, in *your* transaction: marker and effect commit together.
//!
//! Both take the caller's [`tokio_postgres::Transaction`], and there is no variant that takes a plain connection: a marker
//! or an event outside the business transaction cannot be written by mistake.
//!
//! Not here: connections, pools, brokers, retries. A worker receives, calls [`inbox::once`], commits, then acknowledges.

pub mod inbox;
mod name;
pub mod outbox;

pub use name::{NameError, Table};
