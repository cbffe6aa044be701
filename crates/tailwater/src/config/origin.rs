//! Where a value came from, and what a front end has to say beside the values: problems, decisions, notices.

use super::Config;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The place that set a value: what an operator edits to change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    #[default]
    Default,
    /// A line of a file; `key` where the file's own name for the setting differs from ours.
    File { file: Arc<str>, line: usize, key: Option<Arc<str>> },
    /// An environment variable.
    Environment(String),
    /// A command line flag, as typed: `--to`.
    Flag(String),
    /// Chosen for the author of the configuration; the decision or the flag that caused it is named.
    Chosen(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { file, line, key: None } => write!(f, "{file}:{line}"),
            Origin::File { file, line, key: Some(key) } => write!(f, "{file}:{line} ({key})"),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Chosen(why) => write!(f, "chosen: {why}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something taken to mean what the author of a foreign file meant, where the foreign program did otherwise or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The key that decides it otherwise.
    pub key: String,
    pub text: String,
}

/// Worth a line at start, no more: a key without meaning here, a variable that is ignored, a password in an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub key: String,
    pub text: String,
}

/// One thing that is wrong, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub place: Option<Origin>,
    pub text: String,
}

impl Problem {
    pub fn new(text: impl Into<String>) -> Self {
        Problem { place: None, text: text.into() }
    }

    pub fn at(place: &Origin, text: impl Into<String>) -> Self {
        let place = (*place != Origin::Default).then(|| place.clone());
        Problem { place, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Everything that is wrong with a configuration, at once: an operator corrects it in one go. Exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub fn one(problem: Problem) -> Self {
        ConfigError { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Origin of each setting that is not a built-in default, by its dotted path (`pipelines.orders.sink.urls`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// Where the setting, or the list or table around it, was set.
    pub fn of(&self, path: &str) -> &Origin {
        let mut path = path;
        loop {
            if let Some(origin) = self.0.get(path) {
                return origin;
            }
            match path.rfind('.') {
                Some(dot) => path = &path[..dot],
                None => return &Origin::Default,
            }
        }
    }
}

/// What a command works with.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub origins: Origins,
    pub decisions: Vec<Decision>,
    pub notices: Vec<Notice>,
}
