//! Logs on stderr, text or JSON. Never on stdout, which carries data. Levels may change while the process runs.

use super::{GlobalArgs, LogFormat};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

type Apply = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// How the running log takes another filter.
static APPLY: OnceLock<Apply> = OnceLock::new();
/// Directives by target; the empty one is the root.
static LEVELS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Starts logging for the process.
pub fn start(global: &GlobalArgs) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(&global.log_level)
        .map_err(|error| format!("--log-level {}: {error}", global.log_level))?;
    remember(&global.log_level);
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr);
    // a second start (tests) keeps the first
    match global.log_format {
        LogFormat::Text => {
            let ansi = global.color.wanted(&std::io::stderr());
            let builder = builder.with_ansi(ansi).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
            }
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                keep(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
            }
        }
    }
    Ok(())
}

fn keep(apply: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static) {
    drop(APPLY.set(Box::new(apply)));
}

fn remember(directives: &str) {
    let mut levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        match directive.split_once('=') {
            Some((target, level)) => levels.insert(target.to_owned(), level.to_ascii_uppercase()),
            None => levels.insert(String::new(), directive.to_ascii_uppercase()),
        };
    }
}

/// The level of each target that has one of its own, `root` among them.
pub fn levels() -> Vec<(String, String)> {
    let levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    let named = |(target, level): (&String, &String)| {
        (if target.is_empty() { "root".to_owned() } else { target.clone() }, level.clone())
    };
    levels.iter().map(named).collect()
}

/// Sets the level of a target (`root`, `tailwater::sinks`) from now on.
pub fn set_level(target: &str, level: &str) -> Result<(), String> {
    let level = if level == "FATAL" { "ERROR" } else { level };
    let key = if target == "root" { String::new() } else { target.replace('.', "::") };
    let mut levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = levels.insert(key.clone(), level.to_owned());
    let directives: Vec<String> = levels
        .iter()
        .map(|(target, level)| if target.is_empty() { level.clone() } else { format!("{target}={level}") })
        .collect();
    let applied =
        EnvFilter::builder().parse(directives.join(",")).map_err(|error| error.to_string()).and_then(|filter| {
            match APPLY.get() {
                Some(apply) => apply(filter),
                None => Err("the log of this process does not change".into()),
            }
        });
    if applied.is_err() {
        match before {
            Some(before) => levels.insert(key, before),
            None => levels.remove(&key),
        };
    }
    applied
}
