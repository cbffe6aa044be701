//! Predicates, ready for use.

use super::Predicate;
use crate::encode::connect::ConnectRecord;
use crate::encode::strict::Datum;
use crate::transform::outbox::{JavaRegex, RouteConfigError};

#[derive(Debug)]
pub(super) enum Check {
    Always,
    Topic { pattern: Box<JavaRegex>, negate: bool },
    Header { name: String, negate: bool },
    Tombstone { negate: bool },
}

impl Check {
    pub fn new(predicate: Option<&Predicate>, negate: bool) -> Result<Check, RouteConfigError> {
        Ok(match predicate {
            None => Check::Always,
            Some(Predicate::TopicNameMatches(pattern)) => {
                Check::Topic { pattern: Box::new(JavaRegex::new(pattern)?), negate }
            }
            Some(Predicate::HasHeaderKey(name)) => Check::Header { name: name.clone(), negate },
            Some(Predicate::RecordIsTombstone) => Check::Tombstone { negate },
        })
    }

    /// An error says why the pattern cannot decide.
    pub fn takes(&self, record: &ConnectRecord) -> Result<bool, String> {
        Ok(match self {
            Check::Always => true,
            Check::Topic { pattern, negate } => {
                let matches = pattern.matches(&record.topic);
                matches.map_err(|why| format!("topic {}: {why}", record.topic))? != *negate
            }
            Check::Header { name, negate } => record.headers.iter().any(|header| *header.name == **name) != *negate,
            Check::Tombstone { negate } => (record.value.datum == Datum::Null) != *negate,
        })
    }
}
