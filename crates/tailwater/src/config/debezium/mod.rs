//! Debezium Server's `application.properties` (and `DEBEZIUM_…` variables) → the settings of one pipeline.
//!
//! A key has its meaning, has none here (one notice), or is refused with the reason: `keys` is the table. Where the
//! original would lose events or fail, what the author meant is done, and said as a decision.

mod chain;
mod connect;
pub mod docs;
mod formats;
mod kafka;
pub mod keys;
mod predicates;
mod rabbitmq;
mod source;
mod tables;
mod transforms;

pub use connect::read_connector;

use super::expand::expand;
use super::flags::PIPELINE;
use super::load::Collected;
use super::origin::{Decision, Notice, Origin, Problem};
use super::{properties, settings};
use keys::{How, Mode, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a text looks like such a file: for names that do not tell.
pub fn looks_like(text: &str) -> bool {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
    lines.clone().any(|line| line.starts_with("debezium.") || line.starts_with("quarkus."))
        && !lines.clone().any(|line| line.starts_with("[pipelines"))
}

/// Whether variables alone configure a pipeline, without any file.
pub fn in_environment(environment: &[(String, String)]) -> bool {
    environment.iter().any(|(name, _)| name == "DEBEZIUM_SINK_TYPE" || name == "DEBEZIUM_SOURCE_CONNECTOR_CLASS")
}

/// Reads a file's text and the variables over it.
pub fn read(file: &str, text: &str, environment: &[(String, String)], collected: &mut Collected) {
    let parsed = match properties::parse(text) {
        Ok(parsed) => parsed,
        Err((line, reason)) => {
            let place = Origin::File { file: file.into(), line, key: None };
            return collected.problems.push(Problem::at(&place, reason));
        }
    };
    let file: Arc<str> = file.into();
    let mut entries = BTreeMap::new();
    for property in parsed {
        let origin = Origin::File { file: file.clone(), line: property.line, key: Some(property.key.as_str().into()) };
        entries.insert(property.key, Entry { value: property.value, origin });
    }
    overlay(&mut entries, environment, &mut collected.notices);
    let strict = entries.get("tailwater.compatibility").is_some_and(|entry| entry.value.trim() == "strict");
    let mut mapper = Mapper { entries, strict, mode: Mode::Outbox, front: Front::Server, collected };
    mapper.expand_values(environment);
    mapper.mode = mapper.mode();
    mapper.sort_out();
    mapper.own_settings();
    mapper.source();
    mapper.sink();
    mapper.formats();
    mapper.transforms();
    mapper.http();
}

#[derive(Clone, Debug)]
struct Entry {
    value: String,
    origin: Origin,
}

/// The file on its way to settings.
struct Mapper<'a> {
    entries: BTreeMap<String, Entry>,
    strict: bool,
    mode: Mode,
    front: Front,
    collected: &'a mut Collected,
}

/// Whose keys are read: what is absent has other defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Server,
    Connect,
}

/// Variables replace what the file says. A name loses dots, dashes and capitals; known keys get them back.
fn overlay(entries: &mut BTreeMap<String, Entry>, environment: &[(String, String)], notices: &mut Vec<Notice>) {
    let form = |key: &str| -> String {
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    };
    const PARTS: [&str; 7] = ["SOURCE_", "SINK_", "FORMAT_", "TRANSFORMS", "PREDICATES", "API_", "TERMINATION_"];
    for (variable, value) in environment {
        let upper = variable.to_ascii_uppercase();
        let Some(rest) = upper.strip_prefix("DEBEZIUM_") else { continue };
        if !PARTS.iter().any(|part| rest.starts_with(part)) {
            notices.push(Notice { key: variable.clone(), text: "is no setting and is ignored".into() });
            continue;
        }
        let in_file = entries.keys().find(|key| form(key) == upper).cloned();
        let key = in_file
            .or_else(|| keys::all().find(|key| form(key.name) == upper).map(|key| key.name.to_owned()))
            .unwrap_or_else(|| variable.to_lowercase().replace('_', "."));
        entries.insert(key, Entry { value: value.clone(), origin: Origin::Environment(variable.clone()) });
    }
}

impl Mapper<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| entry.value.trim())
    }

    /// Where a key was set; default if it was not.
    fn origin(&self, key: &str) -> Origin {
        self.entries.get(key).map(|entry| entry.origin.clone()).unwrap_or_default()
    }

    fn is_true(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn problem(&mut self, key: &str, text: impl Into<String>) {
        let text = text.into();
        let problem = match self.origin(key) {
            Origin::Default => Problem::new(format!("{key}: {text}")),
            Origin::Environment(name) => Problem::new(format!("environment variable {name} ({key}): {text}")),
            origin => Problem::at(&origin, text),
        };
        self.collected.problems.push(problem);
    }

    fn decide(&mut self, key: &str, text: impl Into<String>) {
        self.collected.decisions.push(Decision { key: key.into(), text: text.into() });
    }

    /// Sets `part` of the pipeline.
    fn set(&mut self, part: &str, value: &str, origin: Origin) {
        let path = settings::path(&format!("pipelines.{PIPELINE}.{part}"));
        self.collected.settings.set_text(path, value, origin);
    }

    fn expand_values(&mut self, environment: &[(String, String)]) {
        let raw: BTreeMap<String, String> =
            self.entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
        let upper = |name: &str| name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let variable = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        for (key, written) in &raw {
            let of_router =
                key.starts_with("debezium.transforms.") && (key.ends_with(".replacement") || key.ends_with(".regex"));
            let regex = raw.get(&key.replace(".replacement", ".regex")).map_or("", String::as_str);
            let lookup = |name: &str| {
                let group = name == "routedByValue" || regex.contains(&format!("(?<{name}>"));
                if of_router && group {
                    return None;
                }
                variable(name).or_else(|| variable(&upper(name))).or_else(|| raw.get(name).cloned())
            };
            let expanded = match expand(written, &lookup) {
                Ok(expanded) => expanded,
                Err(reason) => {
                    self.problem(key, reason);
                    continue;
                }
            };
            match expanded.unresolved.first() {
                Some(name) if of_router => {
                    let text = format!("`${{{name}}}` is the router's own: taken as if written `$${{{name}}}`");
                    self.decide(key, text);
                }
                // a password may contain the signs by chance: it is not repeated
                Some(_) if key.ends_with("password") => {
                    self.problem(key, "`${…}` stands for nothing known: a plain `$` before `{` is written `$$`");
                }
                Some(name) => {
                    self.problem(key, format!("`${{{name}}}`: neither an environment variable nor a key of this file"));
                }
                None => {}
            }
            if let Some(entry) = self.entries.get_mut(key) {
                entry.value = expanded.text;
            }
        }
    }

    /// Judges each key by the table; those with a place of their own go there.
    fn sort_out(&mut self) {
        for (written, entry) in self.entries.clone() {
            if let Some(other) = self.other_sink(&written) {
                self.notice(&written, other);
                continue;
            }
            let Some(key) = keys::find(&written) else {
                self.unknown(&written);
                continue;
            };
            // blanks at the end belong to a password
            let keep = written.ends_with("password");
            let value = if keep { entry.value.clone() } else { entry.value.trim().to_owned() };
            match key.status(self.mode) {
                Status::Works(How::Word(part), _) => self.set(part, &value.to_lowercase(), entry.origin),
                Status::Works(How::At(part), _) => self.set(part, &value, entry.origin),
                Status::Works(How::Millis(part), _) => self.set(part, &format!("{value}ms"), entry.origin),
                Status::Works(How::Seconds(part), _) => self.set(part, &format!("{value}s"), entry.origin),
                Status::Works(How::Mapped | How::Router(_), _) => {}
                Status::Ignored(why) => self.notice(&written, why),
                Status::StrictOnly(same, why)
                    if self.strict && !same.iter().any(|s| s.eq_ignore_ascii_case(&value)) =>
                {
                    let text = format!("`{written}={value}` is not part of strict compatibility ({why})");
                    self.problem(&written, text);
                }
                Status::StrictOnly(_, why) => self.notice(&written, why),
                Status::Refused(harmless, _) if harmless.iter().any(|s| s.eq_ignore_ascii_case(&value)) => {}
                Status::Refused(_, why) => self.problem(&written, format!("`{written}` is not supported: {why}")),
            }
        }
    }

    /// A key of the one known sink that is not chosen.
    fn other_sink(&self, written: &str) -> Option<&'static str> {
        let chosen = self.value("debezium.sink.type");
        let sink = written.strip_prefix("debezium.sink.")?.split('.').next()?;
        (["rabbitmq", "kafka"].contains(&sink) && chosen != Some(sink) && (sink == "kafka" || chosen == Some("kafka")))
            .then_some("belongs to a sink that is not chosen")
    }

    fn sink(&mut self) {
        match self.value("debezium.sink.type") {
            Some("kafka") => self.kafka(),
            _ => self.rabbitmq(),
        }
    }

    fn notice(&mut self, key: &str, why: &str) {
        self.collected.notices.push(Notice { key: key.into(), text: format!("has no meaning here: {why}") });
    }

    fn unknown(&mut self, written: &str) {
        if let Some(rest) = written.strip_prefix("debezium.sink.")
            && let Some((sink, _)) = rest.split_once('.')
            && keys::OTHER_SINKS.contains(&sink)
        {
            return self.notice(written, "belongs to a sink that is not chosen");
        }
        let hint = match keys::nearest(written) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "the known keys are listed in docs/debezium.md".into(),
        };
        self.problem(written, format!("unknown key `{written}`: {hint}"));
    }

    /// `tailwater.…`: what the original has no key for.
    fn own_settings(&mut self) {
        let own: Vec<(String, Entry)> = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with("tailwater."))
            .map(|(k, e)| (k.clone(), e.clone()))
            .collect();
        for (key, entry) in own {
            let rest = &key["tailwater.".len()..];
            let path = match rest {
                "compatibility" => format!("pipelines.{PIPELINE}.route.compatibility"),
                _ if rest == "state_dir" || rest.starts_with("http.") || rest.starts_with("pipelines.") => {
                    rest.to_owned()
                }
                _ => format!("pipelines.{PIPELINE}.{rest}"),
            };
            self.collected.settings.set_text(settings::path(&path), &entry.value, entry.origin);
        }
    }

    fn http(&mut self) {
        let (port, host) = (self.value("quarkus.http.port"), self.value("quarkus.http.host"));
        if port.is_none() && host.is_none() {
            let text = "health, metrics and status are on 127.0.0.1:8083 (Debezium: port 8080 on every address)";
            return self.decide("quarkus.http.port", text);
        }
        let address = match host.unwrap_or("127.0.0.1") {
            "localhost" => "127.0.0.1".to_owned(),
            v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
            other => other.to_owned(),
        };
        let listen = format!("{address}:{}", port.unwrap_or("8083"));
        let key = if port.is_some() { "quarkus.http.port" } else { "quarkus.http.host" };
        if host.is_none() {
            self.decide(
                key,
                "the port is open on loopback only; `quarkus.http.host` and `tailwater.http.token` change that",
            );
        }
        let origin = self.origin(key);
        self.collected.settings.set_text(settings::path("http.listen"), &listen, origin);
    }
}
