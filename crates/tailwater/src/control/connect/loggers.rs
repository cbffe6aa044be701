//! `/admin/loggers`: the level of the log, changed while the process runs.

use super::Call;
use super::answer::{Answer, Refusal, ok};
use crate::cli::log;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

const LEVELS: [&str; 7] = ["OFF", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

pub(super) fn answer(call: &Call, rest: &[&str]) -> Answer {
    match (&call.method, rest) {
        (&Method::GET, []) => {
            let all: serde_json::Map<String, Value> =
                log::levels().into_iter().map(|(name, level)| (name, entry(&level))).collect();
            ok(&Value::Object(all))
        }
        (&Method::GET, [name]) => match log::levels().into_iter().find(|(known, _)| known == name) {
            Some((_, level)) => ok(&entry(&level)),
            None => Err(Refusal::not_found(format!("Logger {name} not found."))),
        },
        (&Method::PUT, [name]) => set(call, name),
        (_, [] | [_]) => Err(Refusal::plain(StatusCode::METHOD_NOT_ALLOWED)),
        _ => Err(Refusal::plain(StatusCode::NOT_FOUND)),
    }
}

fn entry(level: &str) -> Value {
    json!({ "level": level, "last_modified": null })
}

/// Answers with the loggers that changed: none for a name that is not ours.
fn set(call: &Call, name: &str) -> Answer {
    let body = call.object()?;
    let level = body.get("level").and_then(Value::as_str);
    let level = level.ok_or_else(|| Refusal::bad("Desired 'level' parameter was not specified in request."))?;
    let upper = level.to_ascii_uppercase();
    if !LEVELS.contains(&upper.as_str()) {
        return Err(Refusal::not_found(format!("invalid log level '{level}'.")));
    }
    if name != "root" && !name.starts_with("tailwater") {
        return ok(&json!([]));
    }
    log::set_level(name, &upper).map_err(Refusal::bad)?;
    ok(&json!([name]))
}
