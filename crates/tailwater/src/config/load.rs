//! From what the operator gave (file, environment, flags) to a validated [`Config`](super::Config) with origins.
//!
//! Order, later wins: file or `--from/--to`, `DEBEZIUM_…` over a properties file, `TAILWATER_…`, flags.

use super::flags::{self, Flags};
use super::origin::{ConfigError, Decision, Loaded, Notice, Origin, Problem};
use super::settings::Settings;
use super::{environment, native, validate};
use std::path::{Path, PathBuf};

/// Everything that configuration depends on: nothing here looks at the process itself, so tests can give all of it.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub file: Option<PathBuf>,
    pub flags: Flags,
    pub environment: Vec<(String, String)>,
}

/// What front ends collect.
#[derive(Debug, Default)]
pub struct Collected {
    pub settings: Settings,
    pub decisions: Vec<Decision>,
    pub notices: Vec<Notice>,
    pub problems: Vec<Problem>,
}

/// Reads, merges, checks. All problems at once.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigError> {
    let mut collected = Collected::default();
    let with_flags = inputs.flags.from.is_some() || inputs.flags.to.is_some();
    match &inputs.file {
        Some(_) if with_flags => {
            collected.problems.push(Problem::new("give either --config or --from and --to, not both"));
        }
        Some(file) => read_file(file, inputs, &mut collected),
        None if with_flags => {
            let problems = flags::pipeline(&inputs.flags, &mut collected.settings, &mut collected.notices);
            collected.problems.extend(problems);
        }
        None => {}
    }
    environment::apply(&mut collected.settings, &inputs.environment, &mut collected.notices);
    collected.problems.extend(flags::apply(&inputs.flags, &mut collected.settings));
    if collected.problems.is_empty() && collected.settings.pipelines().is_empty() {
        let text = "no pipeline is configured: give --config FILE, or --from postgres://… --to amqp://…|stdout";
        collected.problems.push(Problem::new(text));
    }
    finish(collected)
}

fn finish(collected: Collected) -> Result<Loaded, ConfigError> {
    let Collected { settings, decisions, notices, mut problems } = collected;
    match settings.build() {
        Ok((config, origins)) if problems.is_empty() => {
            problems = validate::all(&config, &origins);
            if problems.is_empty() {
                return Ok(Loaded { config, origins, decisions, notices });
            }
        }
        Ok((config, origins)) => problems.extend(validate::all(&config, &origins)),
        Err(more) => problems.extend(more),
    }
    Err(ConfigError { problems })
}

fn read_file(file: &Path, inputs: &Inputs, collected: &mut Collected) {
    let name = file.display().to_string();
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return collected.problems.push(Problem::new(format!("{name}: {error}"))),
    };
    let _ = inputs;
    match native::read(&name, &text) {
        Ok(settings) => collected.settings = settings,
        Err(problem) => collected.problems.push(problem),
    }
}

/// Origin of a flag's value: the variable, if that is where it came from.
pub fn flag_origin(flag: &str, variable: &str, typed: bool) -> Origin {
    if typed { Origin::Flag(flag.into()) } else { Origin::Environment(variable.into()) }
}
