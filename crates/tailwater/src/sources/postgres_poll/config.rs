//! Which table to poll and how. The one place where these settings are defined.

use crate::sources::postgres::config::Connection;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[pipelines.NAME.source]` with `type = "postgres-poll"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    #[serde(flatten)]
    pub connection: Connection,
    /// The outbox table, `schema.name` or `name` (then `public`).
    pub table: String,
    /// Column that tells the order of rows: smallint, integer or bigint, filled by a sequence. None: the only such column.
    pub order_column: Option<String>,
    /// What becomes of a row that is published.
    pub done: Done,
    /// With `done = "mark"`: column of type timestamptz, null until the row is published.
    pub mark_column: Option<String>,
    /// Looks this often, also when no notification comes.
    #[serde(with = "tailwater_core::duration")]
    pub interval: Duration,
    /// Another relay that has not touched its session for so long is taken to be dead: its session is ended and its share
    /// of the rows is taken over. No wall clock decides that.
    #[serde(with = "tailwater_core::duration")]
    pub lease: Duration,
}

/// What becomes of a row that is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    #[default]
    Delete,
    Mark,
}

impl Default for PollConfig {
    fn default() -> Self {
        PollConfig {
            connection: Connection::default(),
            table: String::new(),
            order_column: None,
            done: Done::Delete,
            mark_column: None,
            interval: Duration::from_secs(1),
            lease: Duration::from_secs(10),
        }
    }
}

impl PollConfig {
    /// What is wrong with it: field and text. Everything at once.
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, field, text| {
            if !holds {
                problems.push((field, text));
            }
        };
        require(!self.table.is_empty(), "table", "name the outbox table, as schema.table or table");
        let marked = (self.done == Done::Mark) == self.mark_column.is_some();
        require(
            marked,
            "mark_column",
            "done = \"mark\" needs a mark_column of type timestamptz, and only then it has a meaning",
        );
        let interval = (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.interval);
        require(interval, "interval", "from 10ms to 60s");
        let lease = (Duration::from_secs(5)..=Duration::from_secs(600)).contains(&self.lease);
        require(lease, "lease", "from 5s to 600s");
        problems
    }
}

/// The channel on which the trigger that `init` offers tells of new rows: `tailwater_<table>`, with the schema before the
/// table unless it is `public`.
pub fn channel(table: &str) -> String {
    let table = table.strip_prefix("public.").unwrap_or(table);
    let name: String =
        table.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    // a channel's name has 63 bytes at most
    format!("tailwater_{}", &name[..name.len().min(50)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_channel_however_it_is_written() {
        assert_eq!(channel("outbox"), "tailwater_outbox");
        assert_eq!(channel("public.outbox"), "tailwater_outbox");
        assert_eq!(channel("app.Out box"), "tailwater_app_out_box");
        assert_eq!(channel(&"ü".repeat(100)).len(), 60);
    }
}
