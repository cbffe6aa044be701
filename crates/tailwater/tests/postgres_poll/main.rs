//! Conformance of the polling source against real servers: seam rules S1–S5, O1, C1, C2, and the traps of polling
//! (T1–T7, T51). With the real program, a broker and `kill -9`: see the crash tests.

#![allow(clippy::unwrap_used)] // a helper of a test fails like the test itself

mod harness;
mod late;
mod plan;
mod rows;
mod setup;
mod shares;
#[path = "../source_suite/mod.rs"]
mod source_suite;
