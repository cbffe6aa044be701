//! Column values → bytes of keys, headers and payloads.
//!
//! Two dialects: [`plain`] is Tailwater's own (lossless, nothing parsed without need); [`strict`] gives what Debezium's
//! converters give, byte for byte, with [`connect`] for the schemas. Which one, and which column goes where, is the transforms' business.

pub mod array;
pub mod connect;
pub mod decimal;
pub mod json;
pub mod kind;
pub mod number;
pub mod plain;
pub mod strict;
pub mod time;
