//! Where changes come from.

pub mod postgres;
pub mod postgres_poll;
