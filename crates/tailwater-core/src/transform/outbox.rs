//! The outbox event router: one inserted row → one message.
//!
//! Behaviour follows Debezium's `EventRouter` (options, order of processing, placements); differences are listed in
//! docs/debezium.md.

pub(super) mod columns;
pub(super) mod expand;
pub(crate) mod java_regex;
pub(super) mod json_node;
pub(super) mod names;
pub(super) mod placement;
pub(crate) mod reject;
pub(super) mod router;
mod strict;
#[cfg(test)]
mod tests;
pub(super) mod topic;

pub use java_regex::JavaRegex;
pub use router::{OutboxRouter, RouteSettings};
pub use strict::ContextHeaders;

use serde::{Deserialize, Serialize};

/// A setting of the route that can never work: found when the router is built, not at the first event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteConfigError {
    #[error("regular expression {pattern:?} cannot be used: {reason}")]
    Regex { pattern: String, reason: String },
    #[error("topic replacement {replacement:?} cannot be used: {reason}")]
    Replacement { replacement: String, reason: String },
    #[error("placement item {item:?} is not column:place or column:place:alias (in {list:?})")]
    Placement { item: String, list: String },
    #[error("placement {place:?} of {item:?} is unknown: use header, envelope or partition")]
    Place { place: String, item: String },
    #[error("the envelope would have two members named {name:?}: give one of them another alias")]
    DuplicateMember { name: String },
    #[error("value format `binary` has no room for envelope placements: place the columns in headers, or use `json`")]
    BinaryEnvelope,
    #[error("format `plain` is for headers only: use json, string or binary for {part}")]
    PlainFormat { part: &'static str },
    #[error("format `binary` is not available for headers: use plain, string or json")]
    BinaryHeaders,
    #[error("lsn_header is none of Debezium's headers: it cannot be had with compatibility = \"strict\"")]
    LsnHeader,
    #[error("option {option} must not be empty")]
    Empty { option: &'static str },
}

/// All options of the router. Defaults are those of Debezium's `EventRouter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboxOptions {
    /// `table.field.event.id`. `None`: `id` if the table has it, else the key column's value.
    pub id_column: Option<String>,
    /// `table.field.event.key`
    pub key_column: String,
    /// `table.field.event.type`: fills the message's event type, where the column exists.
    pub type_column: String,
    /// `table.field.event.payload`
    pub payload_column: String,
    /// `table.field.event.timestamp`: a timestamp, timestamptz or date column (strict: timestamp); null or infinite, and
    /// without the option, the time of commit counts.
    pub timestamp_column: Option<String>,
    /// `table.field.event.schema.version`: without schemas only checked, to be an integer column.
    pub schema_version_column: Option<String>,
    /// `table.fields.additional.placement`, in Debezium's grammar: `column:header|envelope|partition[:alias], …`
    pub placement: Option<String>,
    /// `table.field.additional.missing`
    pub missing_column: MissingColumn,
    /// `table.op.invalid.behavior`
    pub on_update: OnUpdate,
    /// `table.expand.json.payload`: a payload that is JSON text is spliced in as JSON, byte for byte; otherwise it is a JSON
    /// string. Strict compatibility parses it as Debezium does, with its losses.
    pub expand_json: bool,
    /// `table.json.payload.null.behavior`: strict compatibility only, otherwise nulls stay.
    pub json_null: JsonNull,
    /// `table.json.payload.empty.array.behavior`: strict compatibility only, otherwise empty arrays stay.
    pub json_empty_array: JsonEmptyArray,
    /// `route.by.field`
    pub route_by: String,
    /// `route.topic.regex`: a Java regular expression over the route value; it must match the whole value.
    pub topic_regex: String,
    /// `route.topic.replacement`: Java replacement syntax (`$1`, `${name}`, `\` escapes).
    pub topic_replacement: String,
    /// `route.tombstone.on.empty.payload`: a null or blank payload becomes a message without a body. Otherwise null is the
    /// JSON text `null`, or an empty body in the formats string and binary.
    pub tombstone_on_empty: bool,
    /// `field.name.adjustment.mode`: renames the members of an expanded payload; strict compatibility loses their data, as
    /// Debezium does.
    pub field_name_adjustment: FieldNameAdjustment,
    /// A header of this name, with a position inside the commit's record (`0/16B3749`): a server that has replayed the log so far
    /// has the transaction (T47). Only with what comes from the log; not in strict compatibility.
    pub lsn_header: Option<String>,
}

impl Default for OutboxOptions {
    fn default() -> Self {
        OutboxOptions {
            id_column: None,
            key_column: "aggregateid".into(),
            type_column: "type".into(),
            payload_column: "payload".into(),
            timestamp_column: None,
            schema_version_column: None,
            placement: None,
            missing_column: MissingColumn::default(),
            on_update: OnUpdate::default(),
            expand_json: false,
            json_null: JsonNull::default(),
            json_empty_array: JsonEmptyArray::default(),
            route_by: "aggregatetype".into(),
            topic_regex: "(?<routedByValue>.*)".into(),
            topic_replacement: "outbox.event.${routedByValue}".into(),
            tombstone_on_empty: false,
            field_name_adjustment: FieldNameAdjustment::default(),
            lsn_header: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingColumn {
    #[default]
    Error,
    Ignore,
}

/// What an UPDATE of an outbox row means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUpdate {
    #[default]
    Warn,
    Error,
    Fatal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonNull {
    #[default]
    Ignore,
    OptionalBytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonEmptyArray {
    #[default]
    Ignore,
    OptionalString,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldNameAdjustment {
    #[default]
    None,
    Avro,
    AvroUnicode,
}
