//! Positions in a state directory: one small text file a pipeline, written, fsynced, renamed, directory fsynced.
//!
//! A file that cannot be read as a whole is an error, never "no position": starting without one could skip events.

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tailwater_core::{Checkpoints, Failure, Position};

/// First line of a state file. A reader of version 1 refuses others by name.
const HEADER: &str = "tailwater state 1";

/// The state file of one pipeline.
#[derive(Clone, Debug)]
pub struct FileCheckpoints {
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("state file {}: {reason}", path.display())]
struct StateError {
    path: PathBuf,
    reason: String,
}

impl FileCheckpoints {
    /// Makes the directory if it is missing. `pipeline` becomes part of the file's name.
    pub fn new(directory: &Path, pipeline: &str) -> Result<Self, Failure> {
        let path = directory.join(file_name(pipeline, "position"));
        fs::create_dir_all(directory).map_err(|error| {
            Failure::fatal(
                format!("make the state directory {} writable for this user, or set state_dir", directory.display()),
                StateError { path: path.clone(), reason: error.to_string() },
            )
        })?;
        Ok(FileCheckpoints { path })
    }

    /// Where the position is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<Option<Position>, Failure> {
        let unreadable = |reason: String| {
            Failure::fatal(
                "restore the file from a copy, or remove it to go on from the position that the slot knows",
                StateError { path: self.path.clone(), reason },
            )
        };
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let mut lines = text.lines();
        match lines.next() {
            Some(HEADER) => {}
            Some(other) if other.starts_with("tailwater state ") => {
                return Err(unreadable(format!("version `{other}` is unknown here, this program reads `{HEADER}`")));
            }
            _ => return Err(unreadable("it does not begin with the line of a state file".into())),
        }
        match (lines.next().and_then(|line| line.strip_prefix("position ")), lines.next()) {
            (Some(position), Some("end")) => Ok(Some(Position::new(position))),
            _ => Err(unreadable("it is cut short".into())),
        }
    }

    fn write(&self, position: &Position) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut next = tempfile::NamedTempFile::new_in(directory)?;
        write!(next, "{HEADER}\nposition {position}\nend\n")?;
        next.as_file().sync_all()?;
        next.persist(&self.path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

/// A file's name for any pipeline's name: letters, digits, - and _ stay, all else is escaped, so that no two share a file.
pub fn file_name(pipeline: &str, extension: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let name: String =
        pipeline.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    if name.len() <= 200 {
        return format!("{name}.{extension}");
    }
    // longer than file systems take
    let digest: String = Sha256::digest(pipeline).iter().map(|b| format!("{b:02x}")).collect();
    format!("{}%{digest}.{extension}", &name[..100])
}

#[async_trait]
impl Checkpoints for FileCheckpoints {
    async fn load(&self) -> Result<Option<Position>, Failure> {
        let this = self.clone();
        blocking(move || this.read()).await
    }

    async fn save(&self, position: &Position) -> Result<(), Failure> {
        let (this, position) = (self.clone(), position.clone());
        blocking(move || {
            this.write(&position)
                .map_err(|error| Failure::retry(StateError { path: this.path.clone(), reason: error.to_string() }))
        })
        .await
    }

    async fn clear(&self) -> Result<(), Failure> {
        let this = self.clone();
        blocking(move || {
            let removed = match fs::remove_file(&this.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                removed => removed,
            };
            let directory = this.path.parent().unwrap_or(Path::new("."));
            removed
                .and_then(|()| File::open(directory)?.sync_all())
                .map_err(|error| Failure::retry(StateError { path: this.path.clone(), reason: error.to_string() }))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::retry)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = FileCheckpoints::new(directory.path(), "a/b").unwrap();
        assert_eq!(checkpoints.load().await.unwrap(), None);
        checkpoints.save(&Position::new("lsn=0/1")).await.unwrap();
        checkpoints.save(&Position::new("lsn=0/2")).await.unwrap();
        assert_eq!(checkpoints.load().await.unwrap(), Some(Position::new("lsn=0/2")));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays behind");
        checkpoints.clear().await.unwrap();
        checkpoints.clear().await.unwrap();
        assert_eq!(checkpoints.load().await.unwrap(), None);
    }

    #[test]
    fn no_two_pipelines_share_a_file() {
        let long = "x".repeat(300);
        let names = ["a_b", "a b", "a/b", "a%20b", "ä", "..", &long, &format!("{long}x")];
        let files: std::collections::BTreeSet<String> = names.iter().map(|name| file_name(name, "position")).collect();
        assert_eq!(files.len(), names.len());
        assert!(
            files.iter().all(|file| file.len() < 255 && !file.contains('/') && !file.starts_with('.')),
            "{files:?}"
        );
        assert_eq!(file_name("orders-1_x", "position"), "orders-1_x.position", "as it always was");
    }

    /// H2: a torn or foreign file must not look like a first start.
    #[tokio::test]
    async fn an_unreadable_file_is_fatal_never_a_first_start() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = FileCheckpoints::new(directory.path(), "p").unwrap();
        for text in ["", "tailwater state 1\nposition x", "tailwater state 2\nposition x\nend\n", "junk\n", "\u{0}"] {
            fs::write(checkpoints.path(), text).unwrap();
            let failure = checkpoints.load().await.unwrap_err();
            assert!(failure.is_fatal(), "{text:?}");
        }
    }

    /// T11, T52: a directory that takes no writes is an error of the save, and the old position stays.
    #[tokio::test]
    async fn a_failed_save_keeps_the_old_position() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = FileCheckpoints::new(&directory.path().join("state"), "p").unwrap();
        checkpoints.save(&Position::new("one")).await.unwrap();
        let moved = directory.path().join("moved");
        fs::rename(directory.path().join("state"), &moved).unwrap();
        assert!(checkpoints.save(&Position::new("two")).await.is_err());
        fs::rename(&moved, directory.path().join("state")).unwrap();
        assert_eq!(checkpoints.load().await.unwrap(), Some(Position::new("one")));
    }
}
