//! The five patterns of the lab, and what is said about each.

use serde::{Deserialize, Serialize};

/// How a service tells others what it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    DatabaseFirst,
    BrokerFirst,
    Polling,
    ListenToYourself,
    LogTailing,
}

impl Pattern {
    pub const ALL: [Pattern; 5] = [
        Pattern::DatabaseFirst,
        Pattern::BrokerFirst,
        Pattern::Polling,
        Pattern::ListenToYourself,
        Pattern::LogTailing,
    ];

    /// Of its database, topic, consumer group and slot.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::DatabaseFirst => "database_first",
            Pattern::BrokerFirst => "broker_first",
            Pattern::Polling => "polling",
            Pattern::ListenToYourself => "listen_to_yourself",
            Pattern::LogTailing => "log_tailing",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Pattern::DatabaseFirst => "Dual write, database first",
            Pattern::BrokerFirst => "Dual write, broker first",
            Pattern::Polling => "Transactional outbox, polling",
            Pattern::ListenToYourself => "Listen to yourself",
            Pattern::LogTailing => "Transactional log tailing",
        }
    }

    /// Promises that nothing is lost and nothing is invented.
    pub fn is_ours(self) -> bool {
        !matches!(self, Pattern::DatabaseFirst | Pattern::BrokerFirst)
    }

    /// In a few sentences, for somebody who has never heard of it.
    pub fn about(self) -> &'static str {
        match self {
            Pattern::DatabaseFirst => {
                "The service commits the order, then publishes the event. When it dies in between, or the broker is away \
                 for longer than a request can wait, the order is there and nobody ever hears of it: the event is lost. \
                 No log line and no retry mends this, since nothing that survives knows that there was an event."
            }
            Pattern::BrokerFirst => {
                "The service publishes the event, then commits the order. When it dies in between, or the database says no, \
                 everybody acts on an order that does not exist: a phantom. Customers are told, stock is reserved, and there \
                 is no row to look at."
            }
            Pattern::Polling => {
                "The service writes the order and the event, as a row of an outbox table, in one transaction. A relay polls \
                 that table, publishes what it finds and marks it once the broker has confirmed. A crash anywhere leads \
                 to a repetition, never to a loss; the inbox of the consumer makes repetitions harmless. It costs the \
                 database queries and updates."
            }
            Pattern::ListenToYourself => {
                "The service stores only the event. It hears it on the broker like everybody else and applies the order \
                 then, once. There is one write, so there is nothing to lose between two. In exchange the order is not \
                 there yet when the request is answered."
            }
            Pattern::LogTailing => {
                "The service writes the order and an outbox row in one transaction. The relay reads the row from the \
                 database's own log of committed transactions, so it sees exactly what was committed, in commit order, \
                 without a query. A crash leads to a repetition, never to a loss."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_databases_topics_and_slots_alike() {
        for pattern in Pattern::ALL {
            assert!(pattern.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{pattern:?}");
        }
    }
}
