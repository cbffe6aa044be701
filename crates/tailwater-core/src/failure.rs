//! The one question a caller asks of an error: what do I do now?

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// How a seam fails. Inside a module errors are `thiserror` enums; here only the consequence counts.
#[derive(Debug)]
pub enum Failure {
    /// The outcome is unknown or the peer is away: try again, after `after` if the peer named a time.
    Retry { after: Option<Duration>, source: BoxError },
    /// Waiting does not help: an operator must act. `hint` is what to do, best a command to type.
    Fatal { hint: Cow<'static, str>, source: BoxError },
}

impl Failure {
    pub fn retry(source: impl Into<BoxError>) -> Self {
        Failure::Retry { after: None, source: source.into() }
    }

    pub fn fatal(hint: impl Into<Cow<'static, str>>, source: impl Into<BoxError>) -> Self {
        Failure::Fatal { hint: hint.into(), source: source.into() }
    }

    pub fn is_fatal(&self) -> bool {
        matches!(self, Failure::Fatal { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self {
            Failure::Retry { source, .. } | Failure::Fatal { source, .. } => source,
        };
        write!(f, "{source}")?;
        let mut cause = source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        if let Failure::Fatal { hint, .. } = self
            && !hint.is_empty()
        {
            write!(f, "\n  what to do: {hint}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}
