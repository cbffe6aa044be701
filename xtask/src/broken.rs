//! `cargo xtask break`: do the tests notice when a promise is broken?
//!
//! A copy of the sources gets every bug as a branch behind a switch, is built once, and its simulation (for a bug of a part
//! that the simulation does not have: the test it names, with real servers) runs with one bug switched on at a time. The sources
//! themselves carry no hook. A bug that survives all seeds, or whose text is no longer found, is a failure.

mod bugs;
mod client;
mod kafka;
mod poll;

use bugs::{BUGS, Bug, RealBug};
use clap::Args;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The variable that switches a bug on; only the patched copy reads it.
const SWITCH: &str = "TAILWATER_BREAK";
const TEST: &str = "a_thousand_seeds_lose_nothing";
/// Virtual time makes a seed a matter of milliseconds: what takes longer than this spins.
const LIMIT: Duration = Duration::from_secs(120);
/// Package, test target, bugs whose tests are in it.
const REAL: [(&str, &str, &[RealBug]); 3] = [
    ("tailwater", "kafka", kafka::KAFKA_BUGS),
    ("tailwater", "postgres_poll", poll::POLL_BUGS),
    ("tailwater-client", "inbox", client::CLIENT_BUGS),
];
/// The crates that these tests need.
const CRATES: [&str; 5] = [
    "crates/tailwater-core",
    "crates/tailwater",
    "crates/tailwater-kafka",
    "crates/tailwater-client",
    "crates/testbed",
];

#[derive(Debug, Args)]
pub struct BreakArgs {
    /// Only bugs whose name contains this
    filter: Option<String>,
    /// Seeds to try for each bug
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Name the bugs and exit
    #[arg(long)]
    list: bool,
}

pub async fn run(args: BreakArgs) -> Outcome<()> {
    if args.list {
        all().for_each(|bug| println!("{:<50} {}", bug.name, bug.thought));
        return Ok(());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace lies above xtask")?;
    let started = Instant::now();
    copy(root)?;
    let built = build(root)?;
    println!("copy with {} bugs built in {:.0} s", all().count(), started.elapsed().as_secs_f64());
    let chosen = |bug: &Bug| args.filter.as_ref().is_none_or(|filter| bug.name.contains(filter));
    let simulation = Test { seeds: Some(args.seeds), ..program(&built, "simulation", TEST)? };
    let mut tries: Vec<(&Bug, Test)> =
        BUGS.iter().filter(|bug| chosen(bug)).map(|bug| (bug, simulation.clone())).collect();
    // one database and one broker for all that need them
    let wants = |target: &str| real().any(|(of, real)| (of == "kafka") == (target == "kafka") && chosen(&real.bug));
    let broker = if wants("kafka") { Some(testbed::Kafka::start().await) } else { None };
    let database = if wants("postgres") { Some(testbed::Postgres::start().await) } else { None };
    let mut variables = broker.as_ref().map(testbed::Kafka::share).unwrap_or_default();
    variables.extend(database.as_ref().map(testbed::Postgres::share).unwrap_or_default());
    for (target, real) in real().filter(|(_, real)| chosen(&real.bug)) {
        tries.push((&real.bug, Test { variables: variables.clone(), ..program(&built, target, real.test)? }));
    }
    let mut whole = BTreeSet::new();
    for (_, test) in &tries {
        if whole.insert(test.name) {
            test.holds_without_a_bug()?;
        }
    }
    let mut survivors = Vec::new();
    for (bug, test) in &tries {
        let begun = Instant::now();
        match test.run(Some(bug))? {
            Verdict::Caught(how) => {
                println!("caught   {:<46} {:>5.1} s  {how}", bug.name, begun.elapsed().as_secs_f64())
            }
            Verdict::Survived => {
                println!("SURVIVED {:<46} {:>5.1} s  \"{}\"", bug.name, begun.elapsed().as_secs_f64(), bug.thought);
                survivors.push(bug.name);
            }
        }
    }
    println!("{} of {} caught in {:.0} s", tries.len() - survivors.len(), tries.len(), started.elapsed().as_secs_f64());
    if survivors.is_empty() { Ok(()) } else { Err(format!("not caught: {}", survivors.join(", ")).into()) }
}

fn all() -> impl Iterator<Item = &'static Bug> {
    BUGS.iter().chain(real().map(|(_, real)| &real.bug))
}

/// With the target that its test is in.
fn real() -> impl Iterator<Item = (&'static str, &'static RealBug)> {
    REAL.iter().flat_map(|(_, target, bugs)| bugs.iter().map(move |bug| (*target, bug)))
}

/// Writes the patched copy. Other paths below its root than in the workspace: cargo names artifacts by them, so both can
/// share one target directory and the dependencies in it.
fn copy(root: &Path) -> Outcome<()> {
    let base = base(root);
    let mut wanted = Vec::new();
    for folder in CRATES {
        let mut files = Vec::new();
        list(&root.join(folder), &mut files)?;
        for file in files {
            let relative = file.strip_prefix(root)?.to_path_buf();
            // without its binary, so that the real one next to it is not overwritten
            if !relative.ends_with("crates/tailwater/src/main.rs") {
                let content = patched(&relative, fs::read(&file)?)?;
                let target = base.join("broken").join(&relative);
                write_if_new(&target, &content)?;
                wanted.push(target);
            }
        }
    }
    let mut present = Vec::new();
    list(&base.join("broken"), &mut present)?;
    for stale in present.iter().filter(|path| !wanted.contains(path)) {
        fs::remove_file(stale)?;
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = manifest.lines().find(|line| line.starts_with("members")).ok_or("the workspace has members")?;
    let ours: Vec<_> = CRATES.iter().map(|folder| format!("\"{folder}\"")).collect();
    let manifest =
        manifest.replace(members, &format!("members = [{}]", ours.join(", "))).replace("\"crates/", "\"broken/crates/");
    write_if_new(&base.join("Cargo.toml"), manifest.as_bytes())?;
    // the same versions; cargo takes out what these crates do not need
    fs::copy(root.join("Cargo.lock"), base.join("Cargo.lock"))?;
    Ok(())
}

fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

fn base(root: &Path) -> PathBuf {
    target(root).join("break")
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Outcome<()> {
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => list(&entry.path(), files)?,
                false => files.push(entry.path()),
            }
        }
    }
    Ok(())
}

/// An unchanged file keeps its time, or all is built again.
fn write_if_new(path: &Path, content: &[u8]) -> Outcome<()> {
    if fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().ok_or("a file lies in a folder")?)?;
    Ok(fs::write(path, content)?)
}

fn patched(file: &Path, content: Vec<u8>) -> Outcome<Vec<u8>> {
    let edits = || all().flat_map(|bug| bug.edits.iter().map(move |edit| (bug, edit)));
    let mut edits = edits().filter(|(_, edit)| Path::new(edit.file) == file).peekable();
    // those that do not depend on the core have a switchboard of their own
    let own = [CRATES[0], CRATES[3]].into_iter().find(|folder| file.starts_with(folder));
    if own.is_some_and(|folder| file == Path::new(folder).join("src/lib.rs")) {
        return Ok([content, SWITCHBOARD.replace("SWITCH", SWITCH).into_bytes()].concat());
    }
    if edits.peek().is_none() {
        return Ok(content);
    }
    let mut text = String::from_utf8(content)?;
    for (bug, edit) in edits {
        let switch = format!("{}::broken(\"{}\")", if own.is_some() { "crate" } else { "tailwater_core" }, bug.name);
        let found = text.matches(edit.find).count();
        if found != 1 {
            let place = file.display();
            return Err(format!("bug {}: its text occurs {found} times in {place}:\n{}", bug.name, edit.find).into());
        }
        text = text.replace(edit.find, &edit.replace.replace("broken!()", &switch));
    }
    Ok(text.into_bytes())
}

const SWITCHBOARD: &str = r#"
/// Whether this bug is switched on.
pub fn broken(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("SWITCH").ok()).as_deref() == Some(name)
}
"#;

/// Builds the tests of the copy; what cargo says of them.
fn build(root: &Path) -> Outcome<Vec<serde_json::Value>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--offline", "--quiet", "--no-run", "--message-format", "json-render-diagnostics"]);
    let packages: BTreeSet<&str> = REAL.iter().map(|(package, ..)| *package).collect();
    let targets = REAL.iter().map(|(_, target, _)| *target).chain(["simulation"]);
    command.args(packages.iter().flat_map(|package| ["-p", package])).args(targets.flat_map(|name| ["--test", name]));
    let command = command.current_dir(base(root)).env("CARGO_TARGET_DIR", target(root));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the patched copy does not build".into());
    }
    let lines = String::from_utf8(output.stdout)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// A test of one of the built targets.
fn program(built: &[serde_json::Value], target: &str, name: &'static str) -> Outcome<Test> {
    let path = built.iter().filter(|message| message["target"]["name"] == target);
    let path = path.filter_map(|message| message["executable"].as_str()).next_back();
    let path = path.ok_or_else(|| format!("cargo names no test binary for {target}"))?;
    Ok(Test { program: path.into(), name, seeds: None, variables: vec![] })
}

enum Verdict {
    Caught(String),
    Survived,
}

/// One test of the copy.
#[derive(Clone)]
struct Test {
    program: PathBuf,
    name: &'static str,
    seeds: Option<u64>,
    /// Where shared servers are.
    variables: Vec<(&'static str, String)>,
}

impl Test {
    fn holds_without_a_bug(&self) -> Outcome<()> {
        match self.run(None)? {
            Verdict::Survived => Ok(()),
            Verdict::Caught(how) => Err(format!("{} fails with no bug switched on: {how}", self.name).into()),
        }
    }

    fn run(&self, bug: Option<&Bug>) -> Outcome<Verdict> {
        let mut command = Command::new(&self.program);
        command.args([self.name, "--exact", "--nocapture"]).env("RUST_BACKTRACE", "0");
        command.env_remove("TAILWATER_SEED").env_remove(SWITCH);
        command.envs(self.seeds.map(|seeds| ("TAILWATER_SEEDS", seeds.to_string())));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(bug.map(|bug| (SWITCH, bug.name)));
        let mut story = tempfile::tempfile()?;
        let mut child = command.stdout(Stdio::null()).stderr(story.try_clone()?).spawn()?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > LIMIT {
                child.kill()?;
                child.wait()?;
                return Err(format!("bug {}: no end after {LIMIT:?}", bug.map_or("none", |bug| bug.name)).into());
            }
            thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            return Ok(Verdict::Survived);
        }
        let mut text = String::new();
        std::io::Seek::rewind(&mut story)?;
        std::io::Read::read_to_string(&mut story, &mut text)?;
        let seed = text.lines().find(|line| line.starts_with("seed "));
        let how = seed.or_else(|| text.lines().find(|line| line.contains("panicked at")));
        Ok(Verdict::Caught(how.unwrap_or("without a story").to_owned()))
    }
}
