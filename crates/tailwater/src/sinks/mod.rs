//! Where messages go. A new sink is one file, one line here, one conformance test.

pub mod rabbitmq;
pub mod stdout;
