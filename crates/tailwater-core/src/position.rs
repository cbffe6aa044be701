//! A place in a source, opaque to everything but the source that made it.
//!
//! It is text so that a person can read a state file; nobody but its source may parse it, and no order is defined on it:
//! what lies before what is the ledger's knowledge, from the order in which batches were opened.

use std::fmt;
use std::sync::Arc;

/// An opaque place in a source. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Position(Arc<str>);

impl Position {
    /// Only a source makes positions; `text` is one line without control characters.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        assert!(!text.chars().any(char::is_control), "a position is one line of text");
        Position(text)
    }

    /// The text as its source wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({})", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
