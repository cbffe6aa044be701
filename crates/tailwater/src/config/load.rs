//! From what the operator gave (file, environment, flags) to a validated [`Config`] with origins.
//!
//! Order, later wins: file or `--from/--to`, `DEBEZIUM_…` over a properties file, `TAILWATER_…`, flags.

use super::flags::{self, Flags};
use super::origin::{ConfigError, Decision, Loaded, Notice, Origin, Origins, Problem};
use super::settings::Settings;
use super::{Config, SourceConfig};
use super::{debezium, environment, native, validate};
use std::path::{Path, PathBuf};
use tailwater_core::route::Compatibility;

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
        None if debezium::in_environment(&inputs.environment) => {
            debezium::read("environment", "", &inputs.environment, &mut collected);
        }
        None => {}
    }
    environment::apply(&mut collected.settings, &inputs.environment, &mut collected.notices);
    collected.problems.extend(flags::apply(&inputs.flags, &mut collected.settings));
    // without pipelines, but with a place for them: a worker that waits for connectors
    let worker = ["http", "kafka"].iter().any(|part| collected.settings.any_in(part));
    if collected.problems.is_empty() && collected.settings.pipelines().is_empty() && !worker {
        let text = "no pipeline is configured: give --config FILE, or --from postgres://… --to amqp://…|stdout; or write \
                    [http] or [kafka] into the file, and post connectors to its port";
        collected.problems.push(Problem::new(text));
    }
    finish(collected)
}

fn finish(collected: Collected) -> Result<Loaded, ConfigError> {
    let Collected { settings, decisions, notices, mut problems } = collected;
    match settings.build().map(strict_needs_the_catalog) {
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

/// Strict compatibility and schemas publish column defaults, which only the catalog knows.
fn strict_needs_the_catalog((mut config, mut origins): (Config, Origins)) -> (Config, Origins) {
    for (name, pipeline) in &mut config.pipelines {
        let SourceConfig::Postgres(source) = &mut pipeline.source else { continue };
        let strict = pipeline.route.compatibility == Compatibility::Strict;
        if (strict || pipeline.route.has_schemas()) && !source.catalog {
            source.catalog = true;
            let why = if strict { "strict compatibility" } else { "schemas" };
            origins.0.insert(format!("pipelines.{name}.source.catalog"), Origin::Chosen(why));
        }
    }
    (config, origins)
}

fn read_file(file: &Path, inputs: &Inputs, collected: &mut Collected) {
    let name = file.display().to_string();
    let text = match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return collected.problems.push(Problem::new(format!("{name}: is not UTF-8 text"))),
        Err(error) => return collected.problems.push(Problem::new(format!("{name}: {error}"))),
    };
    read_text(&name, &text, &inputs.environment, collected);
}

/// Reads a file's text as what its name, or else its content, says it is. Never panics, whatever the text.
pub fn read_text(name: &str, text: &str, variables: &[(String, String)], collected: &mut Collected) {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    match extension.as_str() {
        "yaml" | "yml" => {
            let text = "YAML is not read: write the same keys as application.properties, or TOML";
            collected.problems.push(Problem::new(format!("{name}: {text}")));
        }
        "properties" => debezium::read(name, text, variables, collected),
        "toml" => native_file(name, text, variables, collected),
        _ if debezium::looks_like(text) => debezium::read(name, text, variables, collected),
        _ => native_file(name, text, variables, collected),
    }
}

fn native_file(name: &str, text: &str, variables: &[(String, String)], collected: &mut Collected) {
    match native::read(name, text) {
        Ok(settings) => collected.settings = settings,
        Err(problem) => collected.problems.push(problem),
    }
    if debezium::in_environment(variables) {
        let text = "variables of this kind change a properties file only; they are ignored".into();
        collected.notices.push(Notice { key: "DEBEZIUM_…".into(), text });
    }
}

/// Origin of a flag's value: the variable, if that is where it came from.
pub fn flag_origin(flag: &str, variable: &str, typed: bool) -> Origin {
    if typed { Origin::Flag(flag.into()) } else { Origin::Environment(variable.into()) }
}
