//! The order services: one order, three ways to tell the world about it.
//!
//! An example, small on purpose: no payment, no login, no prices. What it shows is where the event is written, who carries
//! it to Kafka, and what that means for somebody who reads in between. See `examples/orders/README.md`.

pub mod api;
pub mod consume;
pub mod database;
pub mod downstream;
pub mod event;
pub mod listener;
pub mod pattern;
pub mod tables;
