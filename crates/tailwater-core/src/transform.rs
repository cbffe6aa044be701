//! The transforms a route is made of.

pub mod chain;
pub mod changes;
pub mod outbox;
