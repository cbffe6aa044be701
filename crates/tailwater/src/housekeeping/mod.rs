//! Keeping the outbox small, by what is provably delivered. Never on the path of an event: the relay runs without it.

pub mod absent;
pub mod horizon;
pub mod prune;
pub mod schedule;
pub mod table;
