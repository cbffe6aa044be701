//! The transforms a route is made of.

pub mod changes;
pub mod outbox;
