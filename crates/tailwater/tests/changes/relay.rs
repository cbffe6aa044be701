//! The program with a configuration file of its own, in a directory of its own.

use super::*;
use std::path::PathBuf;
use std::process::Output;

pub struct File {
    path: PathBuf,
    dir: WorkDir,
}

impl File {
    pub fn new(name: &str, text: &str) -> File {
        let dir = WorkDir::new();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        File { path, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(arguments).arg("--config").arg(&self.path).current_dir(self.dir.path());
        command
    }

    pub fn run(&self) -> Child {
        Child::start(self.command(&["run"]))
    }

    /// Exit code, and what was said.
    pub fn init(&self, argument: &str) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(&["init", argument]).output().unwrap();
        (status.code().unwrap(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
    }
}

impl Shop {
    /// One pipeline of change events, `shop`. The arguments are lines of its tables; after the sink's, more tables may come.
    pub fn file(&self, http: &str, source: &str, route: &str, sink: &str) -> File {
        let name = &self.name;
        let text = format!(
            r#"
state_dir = "state"
[http]
listen = "{http}"
[pipelines.shop.source]
type = "postgres"
slot = "{name}"
publication = "{name}"
{source}
[pipelines.shop.route]
kind = "changes"
{route}
[pipelines.shop.sink]
{sink}
"#
        );
        File::new("tailwater.toml", &text)
    }

    /// Where the database is, for a source.
    pub fn url(&self) -> String {
        format!("url = \"{}\"", self.pg.url(&self.database))
    }
}
