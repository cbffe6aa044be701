//! A chain of transforms between change events and their bytes, as Kafka Connect runs single message transforms.
//!
//! ```text
//!   change ──ChangeRouter──▶ records ──link──▶ … ──link──▶ records ──Converters──▶ messages
//! ```
//!
//! Each link takes one record and gives one or none; a predicate decides which records it sees, the others pass it by. A
//! transform or an option that is not offered is refused by name when the route is built. An outbox alone, without schemas,
//! needs no chain: [`super::outbox::OutboxRouter`] does the same at a fraction of the cost.

mod decode;
mod event;
mod event_router;
mod predicate;
mod route;
#[cfg(test)]
mod tests;
mod unwrap;

pub use route::{ChainRoute, outbox_alone};

use super::changes::ChangeConfigError;
use super::outbox::{OutboxOptions, RouteConfigError};
use crate::encode::connect::ConnectRecord;
use serde::{Deserialize, Serialize};

/// A chain that can never work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainConfigError {
    #[error(transparent)]
    Changes(#[from] ChangeConfigError),
    /// The link counts from 1.
    #[error("transform {link}: {reason}")]
    Route { link: usize, reason: RouteConfigError },
    #[error("transform {link}: {option} = {value:?} is not offered: {reason}")]
    Option { link: usize, option: &'static str, value: String, reason: &'static str },
    #[error("transform {link}: negate without a predicate: there is nothing to turn around")]
    Negate { link: usize },
    #[error("format `plain` is for headers only: use json, string or binary for {part}")]
    PlainFormat { part: &'static str },
    #[error("format `binary` is not available for {part}: {reason}")]
    Binary { part: &'static str, reason: &'static str },
    #[error("schemas are part of the format `json` alone: {part} have another one")]
    Schemas { part: &'static str },
}

/// One link of a chain: a transform, and which records it sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    #[serde(flatten)]
    pub transform: Transform,
    /// Only records that it is true of; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<Predicate>,
    /// Turns the predicate around.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negate: bool,
}

impl From<Transform> for Link {
    fn from(transform: Transform) -> Self {
        Link { transform, predicate: None, negate: false }
    }
}

/// What a link does, with its options; `type` names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Transform {
    /// `io.debezium.transforms.outbox.EventRouter`: rows of an outbox → events. Records without an envelope pass.
    EventRouter(OutboxOptions),
    /// `io.debezium.transforms.ExtractNewRecordState`: the row alone instead of the envelope.
    ExtractNewRecordState(UnwrapOptions),
    /// `org.apache.kafka.connect.transforms.RegexRouter`
    RegexRouter(RegexRouterOptions),
    /// `io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent`: a logical message whose content is
    /// a JSON object → an inserted row, for the event router behind it.
    DecodeLogicalDecodingMessageContent(DecodeOptions),
}

/// Which records a link sees, by what they are when they reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicate {
    /// Java regular expression over the whole topic, as it is in front of the link.
    TopicNameMatches(String),
    HasHeaderKey(String),
    RecordIsTombstone,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexRouterOptions {
    /// Java regular expression over the whole topic; a topic that it does not match stays.
    pub regex: String,
    /// Java replacement syntax (`$1`, `${name}`).
    pub replacement: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// `fields.null.include`: members that are null stay. Strict compatibility only, otherwise they always stay.
    pub include_nulls: bool,
}

/// Defaults are those of Debezium's `ExtractNewRecordState`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnwrapOptions {
    /// `delete.tombstone.handling.mode`
    pub deletes: DeleteHandling,
    /// `add.fields`: `op`, `table`, `source.lsn`, `ts_ms:time`, … with commas, as further members.
    pub add_fields: Option<String>,
    /// `add.fields.prefix`
    pub add_fields_prefix: String,
    /// `add.headers`: the same as headers.
    pub add_headers: Option<String>,
    /// `add.headers.prefix`
    pub add_headers_prefix: String,
    /// `route.by.field`: the text of this column is the topic, where it is not blank.
    pub route_by: Option<String>,
    /// `replace.null.with.default`, in the modes that rewrite. Without: true in strict compatibility, else false.
    pub replace_null: Option<bool>,
}

impl Default for UnwrapOptions {
    fn default() -> Self {
        UnwrapOptions {
            deletes: DeleteHandling::default(),
            add_fields: None,
            add_fields_prefix: "__".into(),
            add_headers: None,
            add_headers_prefix: "__".into(),
            route_by: None,
            replace_null: None,
        }
    }
}

/// What becomes of a delete and of its tombstone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeleteHandling {
    /// Neither is published.
    Drop,
    /// One tombstone. In strict compatibility it has a schema, as Debezium's, so that the JSON format writes the text `null`.
    #[default]
    Tombstone,
    /// The old row with `__deleted = "true"`; rows that are there have `"false"`. No tombstone.
    Rewrite,
    RewriteWithTombstone,
    /// One tombstone, without schema.
    DeleteToTombstone,
}

/// What a link made of a record.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Record(ConnectRecord),
    /// Nothing, by rule.
    Dropped(&'static str),
}
