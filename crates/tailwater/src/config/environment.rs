//! Environment variables over any front end: `TAILWATER_PIPELINES__ORDERS__SINK__URLS` is `pipelines.orders.sink.urls`.
//!
//! Two underscores separate names, one belongs to a name; lists are comma separated. Variables that do not begin with a
//! top-level name (`TAILWATER_PORT_8083_TCP`, which container platforms invent) are left alone.

use super::origin::{Notice, Origin};
use super::settings::Settings;

const PREFIX: &str = "TAILWATER_";
/// Variables with a meaning of their own, outside the configuration.
const OTHERS: [&str; 7] = ["CONFIG", "FROM", "TO", "ADMIN_URL", "LOG_LEVEL", "LOG_FORMAT", "COLOR"];

/// Applies what the variables set. Those that cannot be meant are named in a notice.
pub fn apply(settings: &mut Settings, variables: &[(String, String)], notices: &mut Vec<Notice>) {
    let mut sorted: Vec<&(String, String)> = variables.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    sorted.sort();
    for (name, value) in sorted {
        let rest = &name[PREFIX.len()..];
        let segments: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        match segments[0].as_str() {
            "state_dir" | "memory_bytes" | "http" | "kafka" | "pipelines" => {
                let segments = as_named(settings, segments);
                settings.set_text(segments, value, Origin::Environment(name.clone()));
            }
            _ if OTHERS.contains(&rest) || rest.starts_with("TEST_") => {}
            _ => notices.push(Notice {
                key: name.clone(),
                text: "is ignored: settings are TAILWATER_STATE_DIR, TAILWATER_MEMORY_BYTES, TAILWATER_HTTP__…, \
                       TAILWATER_KAFKA__…, TAILWATER_PIPELINES__NAME__…"
                    .into(),
            }),
        }
    }
}

/// Pipeline names as they are written elsewhere: `-` and capitals cannot be told in a variable's name.
fn as_named(settings: &Settings, mut segments: Vec<String>) -> Vec<String> {
    if segments.len() > 1 && segments[0] == "pipelines" {
        let form = |name: &str| name.to_lowercase().replace('-', "_");
        if let Some(name) = settings.pipelines().into_iter().find(|name| form(name) == segments[1]) {
            segments[1] = name;
        }
    }
    segments
}
