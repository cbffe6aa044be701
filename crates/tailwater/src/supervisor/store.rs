//! Pipelines that were defined by REST survive the process: one file each in `state_dir/connectors/`, as they were posted.
//!
//! A file is written beside its place, fsynced, renamed, and the directory fsynced: it is there as a whole or not at all. It
//! may hold passwords: only its owner may read it. One that cannot be read is an error with its name, never passed over:
//! a pipeline that is silently not there delivers nothing.

use super::Target;
use crate::checkpoints::file::file_name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tailwater_core::Failure;

/// Of the files. A reader refuses others by name.
const FORMAT: u32 = 1;
const EXTENSION: &str = "json";

/// A pipeline as it was defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    pub name: String,
    pub target: Target,
    /// The connector's own settings.
    pub config: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    format: u32,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
struct StoreError {
    path: PathBuf,
    reason: String,
}

/// The directory of definitions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Touches nothing yet.
    pub fn new(state_dir: &Path) -> Self {
        Store { directory: state_dir.join("connectors") }
    }

    /// Returns when the definition survives a power cut. After an error (no space, no permission) the one before it stands.
    pub async fn save(&self, name: &str, config: &Map<String, Value>, target: Target) -> Result<(), Failure> {
        let stored = Stored { name: name.to_owned(), target, config: config.clone() };
        let (this, path) = (self.clone(), self.path(name));
        blocking(move || {
            this.write(&path, &stored).map_err(|error| {
                let hint = format!("make room in {} and let this user write there", this.directory.display());
                Failure::fatal(hint, StoreError { path, reason: error.to_string() })
            })
        })
        .await
    }

    /// Returns when it is gone for good. One that is not there is gone already.
    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        let (this, path) = (self.clone(), self.path(name));
        blocking(move || {
            let removed = match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                removed => removed,
            };
            removed.and_then(|()| File::open(&this.directory)?.sync_all()).map_err(|error| {
                Failure::fatal("let this user write there", StoreError { path, reason: error.to_string() })
            })
        })
        .await
    }

    /// All of them, by name. An unreadable one is fatal.
    pub async fn load_all(&self) -> Result<Vec<Stored>, Failure> {
        let this = self.clone();
        blocking(move || this.read_all()).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(file_name(name, EXTENSION))
    }

    fn write(&self, path: &Path, stored: &Stored) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let Value::Object(rest) = serde_json::to_value(stored)? else { return Err(ErrorKind::InvalidData.into()) };
        // a temporary file is made with mode 0600
        let mut next = tempfile::NamedTempFile::new_in(&self.directory)?;
        serde_json::to_writer_pretty(&mut next, &Versioned { format: FORMAT, rest })?;
        next.write_all(b"\n")?;
        next.as_file().sync_all()?;
        next.persist(path).map_err(|error| error.error)?;
        File::open(&self.directory)?.sync_all()
    }

    fn read_all(&self) -> Result<Vec<Stored>, Failure> {
        let unreadable = |path: &Path, reason: String| {
            Failure::fatal(
                "restore the file from a copy, or remove it and define the connector again",
                StoreError { path: path.to_owned(), reason },
            )
        };
        let listed = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(|error| unreadable(&self.directory, error.to_string()))?,
        };
        let mut all = Vec::new();
        for file in listed {
            let path = file.map_err(|error| unreadable(&self.directory, error.to_string()))?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                // what a crash left of a file that was never finished, or a stranger's
                tracing::warn!(file = %path.display(), "not a definition, left alone");
                continue;
            }
            let stored = fs::read(&path).map_err(|error| error.to_string()).and_then(|bytes| parse(&bytes));
            let stored = stored.map_err(|reason| unreadable(&path, reason))?;
            if self.path(&stored.name) != path {
                let reason = format!("it holds a connector of another name (`{}`)", stored.name);
                return Err(unreadable(&path, reason));
            }
            all.push(stored);
        }
        all.sort_by(|left: &Stored, right| left.name.cmp(&right.name));
        Ok(all)
    }
}

fn parse(bytes: &[u8]) -> Result<Stored, String> {
    // serde's messages may repeat a value, which may be a password: only the place is told
    let place =
        |error: serde_json::Error| format!("not a definition (line {}, column {})", error.line(), error.column());
    let Versioned { format, rest } = serde_json::from_slice(bytes).map_err(place)?;
    if format != FORMAT {
        return Err(format!("format {format} is unknown here, this program reads {FORMAT}"));
    }
    serde_json::from_value(Value::Object(rest)).map_err(|_| "name, target and config are needed, nothing else".into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::retry)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config(password: &str) -> Map<String, Value> {
        let Value::Object(map) = serde_json::json!({"connector.class": "x", "database.password": password}) else {
            unreachable!()
        };
        map
    }

    #[tokio::test]
    async fn what_was_defined_is_there_after_a_restart_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert_eq!(store.load_all().await.unwrap(), []);
        let names = ["b", "a/../b", "postgres-connector", "ünï code", ".hidden", &"x".repeat(300)];
        for name in names {
            store.save(name, &config("one"), Target::Running).await.unwrap();
        }
        store.save("b", &config("two"), Target::Paused).await.unwrap();
        store.remove("postgres-connector").await.unwrap();
        store.remove("never there").await.unwrap();
        let all = Store::new(directory.path()).load_all().await.unwrap();
        assert_eq!(all.len(), names.len() - 1);
        let b = all.iter().find(|stored| stored.name == "b").unwrap();
        assert_eq!((b.target, &b.config), (Target::Paused, &config("two")));
        for file in fs::read_dir(directory.path().join("connectors")).unwrap() {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    /// H2: a torn file, a foreign version, a file under another's name.
    #[tokio::test]
    async fn an_unreadable_definition_is_fatal_and_named() {
        for (text, tells) in [
            ("", "not a definition"),
            ("{\"format\": 1, \"name\": \"a\"}", "name, target and config"),
            ("{\"format\": 2, \"name\": \"a\", \"target\": \"running\", \"config\": {}}", "format 2"),
            ("{\"format\": 1, \"name\": \"b\", \"target\": \"running\", \"config\": {}}", "another name"),
            ("{\"format\": 1, \"name\": \"a\", \"target\": \"s3cret\", \"config\": {}}", "name, target and config"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::new(directory.path());
            store.save("a", &config("x"), Target::Running).await.unwrap();
            fs::write(directory.path().join("connectors/a.json"), text).unwrap();
            let failure = store.load_all().await.unwrap_err();
            let said = failure.to_string();
            assert!(failure.is_fatal() && said.contains("a.json") && said.contains(tells), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    /// T52: no space, no permission: an error for the caller, and what stood before stands.
    #[tokio::test]
    async fn a_definition_that_cannot_be_written_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.save("a", &config("one"), Target::Running).await.unwrap();
        let (place, moved) = (directory.path().join("connectors"), directory.path().join("moved"));
        fs::rename(&place, &moved).unwrap();
        fs::write(&place, "a file where the directory was").unwrap();
        let failure = store.save("a", &config("two"), Target::Running).await.unwrap_err();
        assert!(failure.to_string().contains("a.json") && failure.to_string().contains("what to do"), "{failure}");
        assert!(!failure.to_string().contains("two"), "no settings in errors");
        fs::remove_file(&place).unwrap();
        fs::rename(&moved, &place).unwrap();
        assert_eq!(store.load_all().await.unwrap()[0].config, config("one"));
    }
}
