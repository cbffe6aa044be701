//! Settings on their way from a front end to the typed [`Config`]: a path, a value, an origin.
//!
//! What may be set is not written down a second time: the schema is a [`Config`] with every part present, serialized. A
//! name that it does not hold is an error that names the nearest; a value that does not fit is reported at its origin,
//! and all of them at once.

use super::origin::{Origin, Origins, Problem};
use super::{Config, KafkaConfig, PipelineConfig, PruneConfig, RouteConfig, SinkConfig, SourceConfig};
use crate::sinks::rabbitmq::config::{
    Binding, DeadLetter, DeadLetterBy, Exchange, Queue, QueueKind, RabbitmqConfig, Topology,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One value with its origin. `text` values come from places that know no types and are converted as the setting needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub value: Value,
    pub origin: Origin,
    pub text: bool,
}

/// Path of a setting: `["pipelines", "orders", "sink", "urls"]`; list elements that are tables are numbered.
pub type Path = Vec<String>;

/// The settings of all front ends, later ones replacing earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    map: BTreeMap<Path, Setting>,
}

/// Splits a dotted path. Names do not contain dots: pipeline names are checked.
pub fn path(dotted: &str) -> Path {
    dotted.split('.').map(str::to_owned).collect()
}

impl Settings {
    /// Sets a value; what was set at or below the path before is gone.
    pub fn set(&mut self, path: Path, setting: Setting) {
        self.map.retain(|known, _| !known.starts_with(&path));
        self.map.insert(path, setting);
    }

    pub fn set_value(&mut self, dotted: &str, value: impl Into<Value>, origin: Origin) {
        self.set(path(dotted), Setting { value: value.into(), origin, text: false });
    }

    pub fn set_text(&mut self, path: Path, text: &str, origin: Origin) {
        self.set(path, Setting { value: Value::String(text.to_owned()), origin, text: true });
    }

    pub fn get(&self, dotted: &str) -> Option<&Setting> {
        self.map.get(&path(dotted))
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether anything is set in this part, at the top.
    pub fn any_in(&self, part: &str) -> bool {
        self.map.keys().any(|path| path[0] == part)
    }

    /// Names of the pipelines that have any setting.
    pub fn pipelines(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .map
            .keys()
            .filter(|path| path.len() > 1 && path[0] == "pipelines")
            .map(|path| path[1].clone())
            .collect();
        names.dedup();
        names
    }

    /// The typed configuration, or everything that is wrong with names and types.
    pub fn build(mut self) -> Result<(Config, Origins), Vec<Problem>> {
        let mut problems = self.unknown_names();
        problems.extend(self.missing_parts());
        self.convert_text();
        if problems.is_empty() {
            match serde_json::from_value::<Config>(self.to_json()) {
                Ok(config) => return Ok((config, self.origins())),
                Err(error) => problems = self.misfits(&error),
            }
        } else {
            problems.extend(self.misfits_among_known());
        }
        Err(problems)
    }

    fn origins(&self) -> Origins {
        Origins(self.map.iter().map(|(path, setting)| (path.join("."), setting.origin.clone())).collect())
    }

    /// The kind of source or sink of a pipeline: it decides which names are known there.
    fn type_of(&self, pipeline: &str, part: &str) -> &str {
        let path = vec!["pipelines".into(), pipeline.to_owned(), part.to_owned(), "type".into()];
        self.map.get(&path).and_then(|s| s.value.as_str()).unwrap_or_default()
    }

    fn schema_for(&self, path: &[String]) -> &'static Value {
        /// Every combination that differs, made once: (source, sink).
        static ALL: LazyLock<Vec<((&str, &str), Value)>> = LazyLock::new(|| {
            let sources = ["postgres", "postgres-poll"];
            let both =
                sources.into_iter().flat_map(|source| ["rabbitmq", "kafka", "stdout"].map(|sink| (source, sink)));
            both.map(|(source, sink)| ((source, sink), schema(source, sink))).collect()
        });
        let (source, sink) = match path {
            [head, name, ..] if head == "pipelines" => (self.type_of(name, "source"), self.type_of(name, "sink")),
            _ => ("", ""),
        };
        // an unknown type is an error of its own; names are then those of the first kind
        let known = |kind: &str, kinds: &[&'static str]| kinds.iter().copied().find(|k| *k == kind).unwrap_or(kinds[0]);
        let wanted = (known(source, &["postgres", "postgres-poll"]), known(sink, &["rabbitmq", "kafka", "stdout"]));
        &ALL.iter().find(|(kinds, _)| *kinds == wanted).expect("all combinations are there").1
    }

    fn unknown_names(&self) -> Vec<Problem> {
        self.map.iter().filter_map(|(path, setting)| unknown_name(self.schema_for(path), path, setting)).collect()
    }

    fn missing_parts(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for name in self.pipelines() {
            for (part, types) in
                [("source", "\"postgres\" or \"postgres-poll\""), ("sink", "\"rabbitmq\", \"kafka\" or \"stdout\"")]
            {
                let wanted = vec!["pipelines".to_owned(), name.clone(), part.to_owned(), "type".to_owned()];
                if !self.map.contains_key(&wanted) {
                    problems.push(Problem::new(format!("pipelines.{name}.{part}.type is missing: write {types}")));
                }
            }
        }
        problems
    }

    fn convert_text(&mut self) {
        let schemas: Vec<(Path, &Value)> =
            self.map.iter().filter(|(_, s)| s.text).map(|(path, _)| (path.clone(), self.schema_for(path))).collect();
        for (path, schema) in schemas {
            let Some(setting) = self.map.get_mut(&path) else { continue };
            let Value::String(text) = &setting.value else { continue };
            let fitting = candidates(lookup(schema, &path), text).into_iter().find(|v| fits(schema, &path, v).is_ok());
            if let Some(value) = fitting {
                setting.value = value;
            }
        }
    }

    fn misfits(&self, error: &serde_json::Error) -> Vec<Problem> {
        let problems = self.misfits_among_known();
        if problems.is_empty() { vec![Problem::new(error.to_string())] } else { problems }
    }

    fn misfits_among_known(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, setting) in &self.map {
            let schema = self.schema_for(path);
            if unknown_name(schema, path, setting).is_some() {
                continue;
            }
            if let Err(error) = fits(schema, path, &setting.value) {
                // serde repeats the value in its message: not for what may hold a password
                let text = if may_hold_secret(path) {
                    "must be text (urls: a list of texts)".into()
                } else {
                    error.to_string()
                };
                problems.push(Problem::at(&setting.origin, format!("{}: {text}", path.join("."))));
            }
        }
        problems
    }

    fn to_json(&self) -> Value {
        let mut root = Value::Object(Map::new());
        for (path, setting) in &self.map {
            put(&mut root, path, setting.value.clone());
        }
        root
    }
}

/// A configuration with every part present, serialized: the names and the kinds of values.
fn schema(source: &str, sink: &str) -> Value {
    let dead_letter = DeadLetter { exchange: String::new(), routing_key: None, by: DeadLetterBy::default() };
    let topology = Topology {
        declare: false,
        exchanges: vec![Exchange { name: String::new(), kind: "topic".into(), durable: true }],
        queues: vec![Queue {
            name: String::new(),
            kind: QueueKind::default(),
            durable: true,
            dead_letter: Some(dead_letter),
        }],
        bindings: vec![Binding { exchange: String::new(), queue: String::new(), routing_key: String::new() }],
    };
    let sink = match sink {
        "kafka" => SinkConfig::Kafka(KafkaConfig::default()),
        "stdout" => SinkConfig::Stdout,
        _ => SinkConfig::Rabbitmq(RabbitmqConfig { topology, ..RabbitmqConfig::default() }),
    };
    let pipeline = PipelineConfig {
        source: match source {
            "postgres-poll" => SourceConfig::PostgresPoll(Default::default()),
            _ => SourceConfig::Postgres(Default::default()),
        },
        route: RouteConfig::default(),
        sink,
        delivery: Default::default(),
        admin: Some(Default::default()),
        prune: Some(PruneConfig::default()),
    };
    let config = Config {
        kafka: Some(KafkaConfig::default()),
        pipelines: BTreeMap::from([("*".into(), pipeline)]),
        ..Config::default()
    };
    serde_json::to_value(config).expect("a configuration is serializable")
}

/// Index of a path in the schema: pipelines have one name there, lists one element.
fn segment(level: usize, path: &[String]) -> &str {
    if level == 1 && path[0] == "pipelines" { "*" } else { &path[level] }
}

fn child<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(name),
        Value::Array(list) if name.parse::<usize>().is_ok() => list.first(),
        _ => None,
    }
}

fn lookup<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    (0..path.len()).try_fold(schema, |value, level| child(value, segment(level, path)))
}

fn unknown_name(schema: &Value, path: &[String], setting: &Setting) -> Option<Problem> {
    let mut value = schema;
    for level in 0..path.len() {
        if let Some(next) = child(value, segment(level, path)) {
            value = next;
            continue;
        }
        let parent = path[..level].join(".");
        let within = if parent.is_empty() { "at the top".to_owned() } else { format!("in `{parent}`") };
        let text = match value {
            Value::Object(map) => {
                let near = nearest(&path[level], map.keys().map(String::as_str));
                let known = || map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let hint = near.map_or_else(|| format!("known are {}", known()), |n| format!("did you mean `{n}`?"));
                format!("unknown key `{}` {within}: {hint}", path[level])
            }
            _ => format!("`{parent}` takes a value, not a table (found key `{}`)", path[level]),
        };
        return Some(Problem::at(&setting.origin, text));
    }
    None
}

/// The name that was probably meant.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

/// What a text may stand for, the likeliest first.
fn candidates(sample: Option<&Value>, text: &str) -> Vec<Value> {
    let string = Value::String(text.to_owned());
    let trimmed = text.trim();
    let json = || serde_json::from_str::<Value>(trimmed).ok();
    let list = || Value::Array(trimmed.split(',').map(|part| Value::String(part.trim().to_owned())).collect());
    match sample {
        Some(Value::Array(_)) if trimmed.starts_with('[') => json().into_iter().collect(),
        Some(Value::Array(_)) if trimmed.is_empty() => vec![Value::Array(vec![])],
        Some(Value::Array(_)) => vec![list()],
        Some(Value::String(_)) if !trimmed.starts_with('{') => vec![string],
        Some(Value::Null) => std::iter::once(string).chain(json()).collect(),
        _ => json().into_iter().chain([string]).collect(),
    }
}

fn may_hold_secret(path: &[String]) -> bool {
    path.iter()
        .any(|name| ["url", "urls", "management_url", "password", "key_password", "token"].contains(&name.as_str()))
}

/// Whether a value fits at a path, everything else being in order.
fn fits(schema: &Value, path: &[String], value: &Value) -> Result<(), serde_json::Error> {
    let mut whole = schema.clone();
    let place: Path = (0..path.len())
        .map(|level| match segment(level, path) {
            number if number.parse::<usize>().is_ok() => "0".to_owned(),
            name => name.to_owned(),
        })
        .collect();
    put(&mut whole, &place, value.clone());
    serde_json::from_value::<Config>(whole).map(|_| ())
}

/// Puts a value at a path, making tables and lists on the way.
fn put(root: &mut Value, path: &[String], value: Value) {
    let Some((head, rest)) = path.split_first() else {
        // an empty table written before its members must not undo them, nor the other way round
        let keeps =
            matches!((&*root, &value), (Value::Object(old), Value::Object(new)) if !old.is_empty() && new.is_empty());
        if !keeps {
            *root = value;
        }
        return;
    };
    if let Ok(index) = head.parse::<usize>()
        && !matches!(root, Value::Object(map) if !map.is_empty())
    {
        if !root.is_array() {
            *root = Value::Array(vec![]);
        }
        let list = root.as_array_mut().expect("made a list above");
        let index = index.min(list.len());
        if index == list.len() {
            list.push(Value::Null);
        }
        return put(&mut list[index], rest, value);
    }
    if !root.is_object() {
        *root = Value::Object(Map::new());
    }
    let map = root.as_object_mut().expect("made a table above");
    put(map.entry(head.as_str()).or_insert(Value::Null), rest, value);
}
