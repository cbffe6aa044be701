//! `tailwater check`: what the configuration amounts to, where each value came from, what was decided, and what would go
//! wrong although every value is legal. Connects to nothing.

use super::{DONE, FOUND, GlobalArgs, load, refuse};
use crate::config::SinkConfig;
use crate::config::origin::{Loaded, Origin};
use crate::sinks::rabbitmq::loops::find_dead_letter_loops;
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// Prints the effective configuration; exit code 0, 2 (wrong) or 3 (something was found).
pub fn run(global: &GlobalArgs) -> ExitCode {
    let loaded = match load(global) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(global, &error),
    };
    let (rows, found) = (effective(&loaded), findings(&loaded));
    let out = if global.json {
        format!("{:#}\n", as_json(&loaded, &rows, &found))
    } else {
        text(&loaded, &rows, &found, global.color.wanted(&std::io::stdout()))
    };
    // a reader that closes early (head) is no failure
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), out.as_bytes());
    ExitCode::from(if found.is_empty() { DONE } else { FOUND })
}

/// What the operator must change before it can work, though it is written correctly: key and text.
pub fn findings(loaded: &Loaded) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, pipeline) in &loaded.config.pipelines {
        let SinkConfig::Rabbitmq(sink) = &pipeline.sink else { continue };
        for dead_letter_loop in find_dead_letter_loops(&sink.topology) {
            found.push((format!("pipelines.{name}.sink.topology"), dead_letter_loop.to_string()));
        }
    }
    found
}

/// One setting: dotted path, value with secrets hidden, origin.
pub type Row = (String, Value, Origin);

/// Every setting that has a value.
pub fn effective(loaded: &Loaded) -> Vec<Row> {
    let mut whole = serde_json::to_value(&loaded.config).expect("a configuration is serializable");
    show_urls(loaded, &mut whole);
    let mut rows = Vec::new();
    flatten(&mut String::new(), &whole, &mut |path, value| {
        rows.push((path.to_owned(), value.clone(), loaded.origins.of(path).clone()));
    });
    rows
}

/// URLs are secrets as a whole; which server they mean is worth seeing.
fn show_urls(loaded: &Loaded, whole: &mut Value) {
    for (name, pipeline) in &loaded.config.pipelines {
        let shown = &mut whole["pipelines"][name];
        if let Some(url) = &pipeline.source.connection().url {
            shown["source"]["url"] = url.as_url().into();
        }
        if let Some(url) = pipeline.admin.as_ref().and_then(|admin| admin.url.as_ref()) {
            shown["admin"]["url"] = url.as_url().into();
        }
        if let SinkConfig::Rabbitmq(sink) = &pipeline.sink {
            shown["sink"]["urls"] = sink.urls.iter().map(|url| url.as_url()).collect();
            if let Some(url) = &sink.management_url {
                shown["sink"]["management_url"] = url.as_url().into();
            }
        }
    }
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

fn as_json(loaded: &Loaded, rows: &[Row], found: &[(String, String)]) -> Value {
    let settings: Vec<Value> =
        rows.iter().map(|(path, value, origin)| json!({ "key": path, "value": value, "origin": origin })).collect();
    let found: Vec<Value> = found.iter().map(|(key, text)| json!({ "key": key, "text": text })).collect();
    json!({
        "ok": found.is_empty(), "settings": settings, "decisions": loaded.decisions, "notices": loaded.notices,
        "findings": found,
    })
}

/// The same as sections, one line a setting, its origin behind it.
fn text(loaded: &Loaded, rows: &[Row], found: &[(String, String)], color: bool) -> String {
    let paint = |code: &str, text: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut out = String::new();
    let mut section = "";
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|(path, ..)| (path.rfind('.').map_or("", |dot| &path[..dot]), path.as_str()));
    for (path, value, origin) in sorted {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        if table != section {
            section = table;
            let _ = writeln!(out, "\n{}", paint("1", &format!("[{section}]")));
        }
        let setting = format!("{name} = {value}");
        let origin = format!("# {origin}");
        let _ = writeln!(out, "{setting:<50} {}", paint("2", &origin));
    }
    let parts = [
        ("decided for you", loaded.decisions.iter().map(|d| (d.key.clone(), d.text.clone())).collect::<Vec<_>>()),
        ("noticed", loaded.notices.iter().map(|n| (n.key.clone(), n.text.clone())).collect()),
        ("found", found.to_vec()),
    ];
    for (title, lines) in parts {
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", paint(if title == "found" { "1;31" } else { "1" }, &format!("{title}:")));
        for (key, text) in lines {
            let _ = writeln!(out, "  {}: {text}", paint("36", &key));
        }
    }
    out
}
