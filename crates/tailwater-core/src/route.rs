//! Change → messages: the chain of transforms and the encoding that ends it. Pure.
//!
//! The chain never drops silently: each change yields messages, or a reasoned "not for publishing", or a rejection.

use crate::{Change, Message};
use serde::{Deserialize, Serialize};

/// What becomes of one change.
#[derive(Debug, PartialEq)]
pub enum Routed {
    /// Publish this.
    Message(Message),
    /// Publish these, in this order: one change that is several events (a delete and its tombstone). Never empty.
    Messages(Vec<Message>),
    /// Nothing to publish, by rule (a delete in the outbox, a table that is not captured): counted under this name.
    Filtered(&'static str),
    /// Cannot be published as it is. `raw` is what a dead letter shows: id, topic as far as known, the row as JSON.
    Rejected { reason: String, raw: Box<Message> },
}

/// One pipeline's routing. Keeps caches only; the same change gives the same result.
pub trait Route: Send {
    fn apply(&mut self, change: &Change) -> Routed;

    /// What an operator should know of decisions taken since the last call, each said once: for the log.
    fn notices(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Whose bytes to produce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// Right where Debezium is wrong, lossless where it loses.
    #[default]
    Default,
    /// Debezium's bytes for body, headers and routing key.
    Strict,
}

/// Converter of a key, a value or a header. JSON is without schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    String,
    Binary,
    /// Headers only: the plain value, typed as the broker can (never JSON text).
    Plain,
}
