//! Logs on stderr, text or JSON. Never on stdout, which carries data.

use super::{GlobalArgs, LogFormat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// Starts logging for the process.
pub fn start(global: &GlobalArgs) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(&global.log_level)
        .map_err(|error| format!("--log-level {}: {error}", global.log_level))?;
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr);
    // a second start (tests) keeps the first
    let _ = match global.log_format {
        LogFormat::Text => builder.with_ansi(global.color.wanted(&std::io::stderr())).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
