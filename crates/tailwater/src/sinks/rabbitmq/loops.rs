//! Dead letters that come straight back: found in the configuration alone, before any message runs in circles.
//!
//! A queue bound `report.*` that dead-letters to its own exchange with key `report.dlq` receives every message it rejects
//! again: thousands of times a second, with nothing in the broker that stops it (observed: 4,139 rounds in 2 s).
//! Pure; sees only what the configuration says.

use super::config::{Binding, DeadLetter, Topology};

/// Queues whose rejected messages return to the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterLoop {
    /// One queue: its own dead letters come back at once. Several: they come back through the others.
    pub queues: Vec<String>,
    /// Where the first one sends them.
    pub exchange: String,
    /// With this key; `None`: with the key they had.
    pub routing_key: Option<String>,
    /// The binding pattern that takes them back (into the second queue of the loop, or the only one).
    pub pattern: String,
}

impl std::fmt::Display for DeadLetterLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = &self.queues[0];
        let key = match &self.routing_key {
            Some(key) => format!("key `{key}`"),
            None => "the key they had".to_owned(),
        };
        write!(f, "queue `{queue}` sends rejected messages to exchange `{}` with {key}, and ", self.exchange)?;
        match &self.queues[1..] {
            [] => write!(f, "its own binding `{}` takes them back: an endless loop", self.pattern)?,
            others => write!(f, "by way of {} they come back to it", others.join(" and "))?,
        }
        write!(
            f,
            ". Dead-letter to the default exchange instead: exchange = \"\", routing_key = the name of the dead-letter queue"
        )
    }
}

/// All loops, each once, beginning at the queue that stands first in the configuration.
pub fn find_dead_letter_loops(topology: &Topology) -> Vec<DeadLetterLoop> {
    let mut loops = vec![];
    for start in 0..topology.queues.len() {
        let mut path = vec![start];
        follow(topology, &mut path, &mut loops);
    }
    loops
}

/// Depth first; a loop is reported from its lowest queue only.
fn follow(topology: &Topology, path: &mut Vec<usize>, loops: &mut Vec<DeadLetterLoop>) {
    let at = path[path.len() - 1];
    let Some(dead_letter) = &topology.queues[at].dead_letter else { return };
    for (next, pattern) in targets(topology, &topology.queues[at].name, dead_letter) {
        if next == path[0] {
            let first = topology.queues[path[0]].dead_letter.as_ref().expect("a loop begins with a dead letter");
            loops.push(DeadLetterLoop {
                queues: path.iter().map(|i| topology.queues[*i].name.clone()).collect(),
                exchange: first.exchange.clone(),
                routing_key: first.routing_key.clone(),
                pattern,
            });
        } else if next > path[0] && !path.contains(&next) {
            path.push(next);
            follow(topology, path, loops);
            path.pop();
        }
    }
}

/// Queues that can receive what `queue` dead-letters, with the pattern of the binding that lets it in.
fn targets(topology: &Topology, queue: &str, dead_letter: &DeadLetter) -> Vec<(usize, String)> {
    // The keys its messages arrive with: those of its bindings, unless a key of its own is set.
    let keys: Vec<(&str, bool)> = match &dead_letter.routing_key {
        Some(key) => vec![(key, true)],
        None => topology
            .bindings
            .iter()
            .filter(|b| b.queue == queue)
            .map(|b| (&*b.routing_key, kind(topology, &b.exchange) != "topic"))
            .collect(),
    };
    let mut found: Vec<(usize, String)> = vec![];
    for (index, candidate) in topology.queues.iter().enumerate() {
        let pattern = if dead_letter.exchange.is_empty() {
            // The default exchange: each queue is bound by its name.
            keys.iter().find(|(key, exact)| *exact && *key == candidate.name).map(|_| candidate.name.clone())
        } else {
            let into = |b: &&Binding| b.queue == candidate.name && b.exchange == dead_letter.exchange;
            topology
                .bindings
                .iter()
                .filter(into)
                .find(|b| keys.iter().any(|key| meets(kind(topology, &b.exchange), *key, &b.routing_key)))
                .map(|b| b.routing_key.clone())
        };
        found.extend(pattern.map(|pattern| (index, pattern)));
    }
    found
}

/// An exchange that the configuration does not describe is taken for a topic exchange: equal keys meet there too.
fn kind<'a>(topology: &'a Topology, exchange: &str) -> &'a str {
    topology.exchanges.iter().find(|e| e.name == exchange).map_or("topic", |e| &*e.kind)
}

/// Can a message with this key (or with some key of this pattern) pass this binding?
fn meets(kind: &str, (key, exact): (&str, bool), pattern: &str) -> bool {
    match kind {
        "fanout" => true,
        "direct" if exact => key == pattern,
        "direct" => patterns_meet(key, false, pattern, true),
        "topic" => patterns_meet(key, exact, pattern, false),
        _ => false, // headers: the key says nothing
    }
}

/// Does this topic pattern take this routing key? `*` is one word, `#` any number of words, also none.
pub fn topic_matches(pattern: &str, routing_key: &str) -> bool {
    patterns_meet(routing_key, true, pattern, false)
}

/// Is there a routing key that both match? A literal one has no wildcards, whatever its words look like.
fn patterns_meet(a: &str, a_literal: bool, b: &str, b_literal: bool) -> bool {
    let (a, b) = (words(a, a_literal), words(b, b_literal));
    // meet[i][j]: do the rests from i and from j have a key in common?
    let mut meet = vec![vec![false; b.len() + 1]; a.len() + 1];
    for i in (0..=a.len()).rev() {
        for j in (0..=b.len()).rev() {
            meet[i][j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(Word::Any), other) => meet[i + 1][j] || (other.is_some() && meet[i][j + 1]),
                (other, Some(Word::Any)) => meet[i][j + 1] || (other.is_some() && meet[i + 1][j]),
                (None, _) | (_, None) => false,
                (Some(x), Some(y)) => (x == y || *x == Word::One || *y == Word::One) && meet[i + 1][j + 1],
            };
        }
    }
    meet[0][0]
}

#[derive(PartialEq)]
enum Word<'a> {
    One,
    Any,
    Text(&'a str),
}

/// The empty key has no words (as RabbitMQ splits it).
fn words(text: &str, literal: bool) -> Vec<Word<'_>> {
    if text.is_empty() {
        return vec![];
    }
    text.split('.')
        .map(|word| match word {
            "*" if !literal => Word::One,
            "#" if !literal => Word::Any,
            word => Word::Text(word),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::{Exchange, Queue, QueueKind};
    use super::*;

    #[test]
    fn topic_patterns_as_rabbitmq_reads_them() {
        for (pattern, key, expected) in [
            ("report.*", "report.dlq", true),
            ("report.*", "report.a.b", false),
            ("report.*", "report", false),
            ("report.#", "report", true),
            ("report.#", "report.a.b", true),
            ("#", "", true),
            ("*", "", false),
            ("#.dlq", "report.dlq", true),
            ("*.dlq", "a.b.dlq", false),
            ("a.#.b", "a.b", true),
            ("a.#.b", "a.x.y.b", true),
            ("a.#.b", "a.x.y", false),
            ("#.#", "a", true),
            ("report.dlq", "report.dlq", true),
            ("report.*", "reports.dlq", false),
            ("a.*", "a.", true),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    /// A queue, its patterns, and where it dead-letters to: exchange and key.
    type Line<'a> = (&'a str, &'a [&'a str], Option<(&'a str, Option<&'a str>)>);

    /// `queue pattern,pattern > exchange key` per queue; all bindings on the topic exchange `events`.
    fn topology(kind: &str, lines: &[Line<'_>]) -> Topology {
        let mut topology = Topology {
            exchanges: vec![Exchange { name: "events".into(), kind: kind.into(), durable: true }],
            ..Topology::default()
        };
        for (name, patterns, dead) in lines {
            let dead_letter = dead.map(|(exchange, key)| DeadLetter {
                exchange: exchange.into(),
                routing_key: key.map(Into::into),
                by: Default::default(),
            });
            topology.queues.push(Queue { name: (*name).into(), kind: QueueKind::Classic, durable: true, dead_letter });
            topology.bindings.extend(patterns.iter().map(|pattern| Binding {
                exchange: "events".into(),
                queue: (*name).into(),
                routing_key: (*pattern).into(),
            }));
        }
        topology
    }

    #[test]
    fn loops_are_found_and_nothing_else() {
        let dlq = ("dlq", &["report.dlq"][..], None);
        let table: Vec<(&str, Topology, Vec<Vec<&str>>)> = vec![
            (
                "the recipe taken literally",
                topology("topic", &[("q", &["report.*"], Some(("events", Some("report.dlq")))), dlq]),
                vec![vec!["q"]],
            ),
            ("the default exchange", topology("topic", &[("q", &["report.*"], Some(("", Some("dlq")))), dlq]), vec![]),
            (
                "the default exchange and the own name",
                topology("topic", &[("q", &["report.*"], Some(("", Some("q"))))]),
                vec![vec!["q"]],
            ),
            (
                "a key that its binding does not match",
                topology(
                    "topic",
                    &[("q", &["report.*"], Some(("events", Some("dead.report")))), ("dlq", &["dead.*"], None)],
                ),
                vec![],
            ),
            (
                "the second binding matches",
                topology("topic", &[("q", &["a.b", "#"], Some(("events", Some("x"))))]),
                vec![vec!["q"]],
            ),
            (
                "no key: the same exchange brings them back",
                topology("topic", &[("q", &["report.*"], Some(("events", None)))]),
                vec![vec!["q"]],
            ),
            ("no key, another exchange", topology("topic", &[("q", &["report.*"], Some(("dead", None)))]), vec![]),
            (
                "through another queue",
                topology("topic", &[("a", &["a"], Some(("", Some("b")))), ("b", &[], Some(("events", Some("a"))))]),
                vec![vec!["a", "b"]],
            ),
            (
                "a direct exchange knows no wildcards",
                topology("direct", &[("q", &["report.*"], Some(("events", Some("report.dlq"))))]),
                vec![],
            ),
            (
                "a fanout exchange looks at no key",
                topology("fanout", &[("q", &[""], Some(("events", Some("whatever"))))]),
                vec![vec!["q"]],
            ),
        ];
        for (name, topology, expected) in table {
            let found = find_dead_letter_loops(&topology);
            let queues: Vec<Vec<&str>> = found.iter().map(|l| l.queues.iter().map(|q| &**q).collect()).collect();
            assert_eq!(queues, expected, "{name}");
        }
    }

    #[test]
    fn a_loop_says_how_to_break_it() {
        let t = topology("topic", &[("q", &["report.*"], Some(("events", Some("report.dlq"))))]);
        let text = find_dead_letter_loops(&t)[0].to_string();
        assert!(text.contains("`report.*` takes them back") && text.contains("exchange = \"\""), "{text}");
    }
}
