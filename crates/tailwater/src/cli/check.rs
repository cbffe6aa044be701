//! `tailwater check`: what the configuration amounts to and where each value came from. Connects to nothing.

use super::{DONE, GlobalArgs, load, refuse};
use crate::config::origin::{Loaded, Origin};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Prints the effective configuration; exit code 0, 2 or 3.
pub fn run(global: &GlobalArgs) -> ExitCode {
    let loaded = match load(global) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(global, &error),
    };
    let rows = effective(&loaded);
    if global.json {
        let settings: Vec<Value> =
            rows.iter().map(|(path, value, origin)| json!({ "key": path, "value": value, "origin": origin })).collect();
        let out = json!({ "ok": true, "settings": settings, "decisions": loaded.decisions, "notices": loaded.notices });
        println!("{out:#}");
    } else {
        print!("{}", text(&loaded, &rows));
    }
    ExitCode::from(DONE)
}

/// Every setting with value and origin, secrets hidden.
pub fn effective(loaded: &Loaded) -> Vec<(String, Value, Origin)> {
    let mut rows = Vec::new();
    let whole = serde_json::to_value(&loaded.config).expect("a configuration is serializable");
    flatten(&mut String::new(), &whole, &mut |path, value| {
        rows.push((path.to_owned(), value.clone(), loaded.origins.of(path).clone()));
    });
    rows
}

fn flatten(path: &mut String, value: &Value, row: &mut impl FnMut(&str, &Value)) {
    let length = path.len();
    let mut descend = |name: &str, value: &Value| {
        if length > 0 {
            path.push('.');
        }
        path.push_str(name);
        flatten(path, value, row);
        path.truncate(length);
    };
    match value {
        Value::Object(map) if !map.is_empty() => map.iter().for_each(|(name, value)| descend(name, value)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().enumerate().for_each(|(n, value)| descend(&n.to_string(), value));
        }
        // an absent setting is not shown
        Value::Null => {}
        value => row(path, value),
    }
}

fn text(loaded: &Loaded, rows: &[(String, Value, Origin)]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for (path, value, origin) in rows {
        let _ = writeln!(out, "{path} = {value}    # {origin}");
    }
    for decision in &loaded.decisions {
        let _ = writeln!(out, "decision: {}: {}", decision.key, decision.text);
    }
    for notice in &loaded.notices {
        let _ = writeln!(out, "notice: {}: {}", notice.key, notice.text);
    }
    out
}
