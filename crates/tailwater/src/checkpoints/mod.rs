//! Where positions are kept.

pub mod file;
