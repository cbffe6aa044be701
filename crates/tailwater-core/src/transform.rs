//! The transforms a route is made of.

pub mod outbox;
