//! Conformance of the PostgreSQL source against real servers: seam rules S1–S5, O1–O2, C1–C3, and the traps it must not
//! fall into.

#![allow(clippy::unwrap_used)] // a helper of a test fails like the test itself

mod changes;
mod connect;
mod gap;
mod harness;
mod several;
mod shutdown;
mod snapshot;
#[path = "../source_suite/mod.rs"]
mod source_suite;
mod standby;
mod stream;
