//! The relay: sources, sinks, the loop between them, and the commands around it.
//!
//! `main.rs` only parses, runs and maps the result to an exit code; everything else is here so that tests can reach it.

pub mod assemble;
pub mod checkpoints;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dlq;
pub mod housekeeping;
#[cfg(feature = "lab")]
pub mod lab;
pub mod lanes;
pub mod memory;
pub mod metrics;
pub mod net;
pub mod pipeline;
pub mod setup;
pub mod sinks;
pub mod sources;
pub mod supervisor;
