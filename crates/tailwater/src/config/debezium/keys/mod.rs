//! Every key of a Debezium Server file that is known here, and what becomes of it: the one table from which the mapping,
//! the notices and the list in docs/debezium.md come.

mod running;
mod server;
mod source;
mod transforms;

/// What a file is for: the same keys mean more where every row is an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The outbox event router, and nothing beside it.
    Outbox,
    /// Change events, with or without transforms.
    Changes,
}

/// One key. In names `<x>` stands for one part between dots, a final `*` for the rest.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// With an outbox; with change events too, unless they have their own.
    status: Status,
    changes: Option<Status>,
}

impl Key {
    pub fn status(&self, mode: Mode) -> Status {
        match mode {
            Mode::Outbox => self.status,
            Mode::Changes => self.changes.unwrap_or(self.status),
        }
    }

    /// What becomes of it with change events.
    const fn changes(self, status: Status) -> Key {
        Key { changes: Some(status), ..self }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// Has its meaning here too.
    Works(How, &'static str),
    /// Accepted, with one notice: why it changes nothing.
    Ignored(&'static str),
    /// Changes nothing, but the bytes of strict compatibility: refused there unless it has one of these values.
    StrictOnly(&'static [&'static str], &'static str),
    /// Accepted with one of these values (which ask for nothing), else refused with the reason.
    Refused(&'static [&'static str], &'static str),
}

/// Where a value goes, below the pipeline.
#[derive(Clone, Copy, Debug)]
pub enum How {
    At(&'static str),
    /// A number of milliseconds.
    Millis(&'static str),
    Seconds(&'static str),
    /// A word: taken in capitals too.
    Word(&'static str),
    /// Needs other keys too: see the mapping.
    Mapped,
    /// An option of the outbox router.
    Router(&'static str),
}

pub const fn key(name: &'static str, status: Status) -> Key {
    Key { name, status, changes: None }
}

/// The table, in groups as docs/debezium.md shows them.
pub const GROUPS: &[(&str, &[Key])] = &[
    ("Transforms and predicates", transforms::ROUTER),
    ("Server", server::SERVER),
    ("Formats", server::FORMATS),
    ("RabbitMQ sink", server::RABBITMQ),
    ("Kafka sink", super::kafka::KAFKA),
    ("PostgreSQL: connection", source::CONNECTION),
    ("PostgreSQL: slot and publication", source::SLOT),
    ("PostgreSQL: filters and shape", source::SHAPE),
    ("PostgreSQL: values", source::VALUES),
    ("PostgreSQL: buffers and retries", running::BUFFERS),
    ("PostgreSQL: snapshot and signals", running::SNAPSHOT),
    ("Engine", running::ENGINE),
];

/// Sinks of Debezium Server that are not built in: their settings may lie in a file that chooses another.
pub const OTHER_SINKS: &[&str] = &[
    "eventhubs",
    "http",
    "infinispan",
    "instructlab",
    "kinesis",
    "milvus",
    "nats-jetstream",
    "nats-streaming",
    "pravega",
    "pubsub",
    "pubsublite",
    "pulsar",
    "qdrant",
    "rabbitmqstream",
    "redis",
    "rocketmq",
    "sns",
    "sqs",
];

/// All keys in order.
pub fn all() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().flat_map(|(_, keys)| keys.iter())
}

/// The table's entry for a key as written: an exact name before a pattern, a longer pattern before a shorter.
pub fn find(written: &str) -> Option<&'static Key> {
    all().find(|key| key.name == written).or_else(|| {
        all().filter(|key| matches(key.name, written)).max_by_key(|key| (!key.name.ends_with('*'), key.name.len()))
    })
}

/// Whether a pattern stands for a key.
pub fn matches(pattern: &str, written: &str) -> bool {
    let mut parts = written.split('.');
    for wanted in pattern.split('.') {
        match parts.next() {
            Some(part) if wanted == "*" => return !part.is_empty(),
            Some(part) if wanted.starts_with('<') && !part.is_empty() => {}
            Some(part) if part == wanted => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// The key that was probably meant: wild parts of names are taken from what was written.
pub fn nearest(written: &str) -> Option<String> {
    let parts: Vec<&str> = written.split('.').collect();
    let filled = |name: &str| -> String {
        let part = |(n, wanted): (usize, &str)| match parts.get(n) {
            Some(part) if wanted.starts_with('<') || wanted == "*" => (*part).to_owned(),
            _ => wanted.to_owned(),
        };
        name.split('.').enumerate().map(part).collect::<Vec<_>>().join(".")
    };
    let names: Vec<String> = all().map(|key| filled(key.name)).collect();
    let limit = |name: &str| 3.max(name.len() / 6);
    let near = names.iter().map(|name| (strsim::damerau_levenshtein(written, name), name));
    near.filter(|(distance, name)| *distance <= limit(name)).min().map(|(_, name)| name.clone())
}
