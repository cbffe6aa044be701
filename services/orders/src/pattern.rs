//! The three patterns: which table holds the event, which topic carries it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How an order's event gets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Order and outbox row in one transaction; pollers publish.
    TransactionalOutbox,
    /// Only the event is stored; the service applies the order when it hears its own event.
    ListenToYourself,
    /// Order and outbox row in one transaction; the database's log is tailed.
    TransactionalLogTailing,
}

impl Pattern {
    pub const ALL: [Pattern; 3] =
        [Pattern::TransactionalOutbox, Pattern::ListenToYourself, Pattern::TransactionalLogTailing];

    /// As it stands in paths and in the column `orders.pattern`.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::TransactionalOutbox => "transactional-outbox",
            Pattern::ListenToYourself => "listen-to-yourself",
            Pattern::TransactionalLogTailing => "transactional-log-tailing",
        }
    }

    /// The table that its events are written to.
    pub fn table(self) -> &'static str {
        match self {
            Pattern::TransactionalOutbox => "Transactional_Outbox",
            Pattern::ListenToYourself => "Listen_To_Yourself",
            Pattern::TransactionalLogTailing => "Transactional_Log_Tailing",
        }
    }

    /// The topic that its events arrive on.
    pub fn topic(self) -> &'static str {
        match self {
            Pattern::TransactionalOutbox => "Orders_1",
            Pattern::ListenToYourself => "Orders_2",
            Pattern::TransactionalLogTailing => "Orders_3",
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Pattern, String> {
        let same = |p: &Pattern| p.name() == text || p.topic().eq_ignore_ascii_case(text) || p.table() == text;
        Pattern::ALL.into_iter().find(same).ok_or_else(|| {
            let names = Pattern::ALL.map(|p| format!("{} ({})", p.name(), p.topic())).join(", ");
            format!("`{text}` is no pattern: {names}")
        })
    }
}
