//! Change events: every row of the captured tables, in the envelope of Debezium's PostgreSQL connector.
//!
//! ```text
//!   change ──Table (columns, schemas; cached)──▶ ConnectRecord: key, {before, after, source, op, …}, headers
//! ```
//!
//! One change may be several records: a delete and its tombstone; a changed key is a delete, a tombstone and a create. What
//! is not covered is refused by name, never written wrongly. Not here: which tables the source reads, transforms after it,
//! converters (encode/connect).

mod column;
mod defaults;
mod envelope;
mod read;
mod router;
mod table;
#[cfg(test)]
mod tests;

pub use router::{ChangeRouter, ChangeSettings, Outcome};

use serde::{Deserialize, Serialize};

/// A setting of change events that can never work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeConfigError {
    #[error("{option}: {reason}")]
    Pattern { option: &'static str, reason: String },
    #[error("{option}: include and exclude cannot be given together")]
    Both { option: &'static str },
    #[error("message_key_columns: {item:?} is not schema.table:column,column")]
    KeyColumns { item: String },
    #[error("skipped_operations: {0:?} is not one of c, u, d, t, none")]
    Operation(String),
    #[error("topic_delimiter {0:?} cannot be part of a topic: use letters, digits, '.', '_' or '-'")]
    Delimiter(String),
}

/// All options of change events. Defaults are those of Debezium's PostgreSQL connector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeOptions {
    /// `decimal.handling.mode`
    pub decimal: DecimalMode,
    /// `time.precision.mode`; `structured` is not offered.
    pub time: TimeMode,
    /// `binary.handling.mode`
    pub binary: BinaryMode,
    /// `interval.handling.mode`
    pub interval: IntervalMode,
    /// `hstore.handling.mode`
    pub hstore: HstoreMode,
    /// `money.fraction.digits`: at least 2, or digits would be lost.
    pub money_fraction_digits: u8,
    /// `tombstones.on.delete`: a delete is followed by a record with the same key and no value.
    pub tombstones_on_delete: bool,
    /// `skipped.operations`: letters of c, u, d, t with commas, or `none`.
    pub skipped_operations: String,
    /// `unavailable.value.placeholder`: stands for a TOAST value that is not in the log.
    pub unavailable_value: String,
    /// `column.include.list`: regular expressions over `schema.table.column`. Key columns stay in the key.
    pub column_include: Option<String>,
    /// `column.exclude.list`
    pub column_exclude: Option<String>,
    /// `message.key.columns`: `schema.table:column,column;…`
    pub message_key_columns: Option<String>,
    /// `message.prefix.include.list`: regular expressions over the prefix of logical messages.
    pub message_prefix_include: Option<String>,
    /// `message.prefix.exclude.list`
    pub message_prefix_exclude: Option<String>,
    /// `topic.delimiter`
    pub topic_delimiter: String,
    /// `skip.messages.without.change`: updates that change no column that is written are left out; needs identity FULL.
    pub skip_unchanged: bool,
}

impl Default for ChangeOptions {
    fn default() -> Self {
        ChangeOptions {
            decimal: DecimalMode::default(),
            time: TimeMode::default(),
            binary: BinaryMode::default(),
            interval: IntervalMode::default(),
            hstore: HstoreMode::default(),
            money_fraction_digits: 2,
            tombstones_on_delete: true,
            skipped_operations: "t".into(),
            unavailable_value: "__debezium_unavailable_value".into(),
            column_include: None,
            column_exclude: None,
            message_key_columns: None,
            message_prefix_include: None,
            message_prefix_exclude: None,
            topic_delimiter: ".".into(),
            skip_unchanged: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecimalMode {
    /// Connect's Decimal; NaN and the infinities do not fit.
    #[default]
    Precise,
    String,
    /// Loses digits.
    Double,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeMode {
    /// Milliseconds for columns with up to 3 digits of a second, else microseconds.
    #[default]
    Adaptive,
    AdaptiveTimeMicroseconds,
    Microseconds,
    Nanoseconds,
    /// Connect's own Date, Time and Timestamp: milliseconds.
    Connect,
    Isostring,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BinaryMode {
    #[default]
    Bytes,
    Base64,
    Base64UrlSafe,
    Hex,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalMode {
    /// Microseconds, with months of 365.25 / 12 days.
    #[default]
    Numeric,
    /// `P1Y2M3DT4H5M6.78S`
    String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HstoreMode {
    #[default]
    Json,
    Map,
}
