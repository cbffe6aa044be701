//! Column values → bytes of keys, headers and payloads.
//!
//! [`plain`] is Tailwater's own dialect: lossless, nothing parsed without need. Which column goes where is the
//! business of the transforms.

pub mod json;
pub mod kind;
pub mod plain;
pub mod time;
