//! Which policy a queue obeys, and how to add dead-lettering to it without taking anything away. Pure.
//!
//! One policy applies per queue: a second one is not merged, the higher priority takes all. And a policy with one key that
//! the queue's type does not know is ignored whole, silently (observed on RabbitMQ 3.10). So ours carries the keys of the
//! one it replaces, and is made for a single queue.

use super::config::{DeadLetter, Queue, QueueKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// As the management API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    pub pattern: String,
    pub definition: Map<String, Value>,
    #[serde(default)]
    pub priority: i64,
    #[serde(rename = "apply-to", default = "all")]
    pub apply_to: String,
}

fn all() -> String {
    "all".into()
}

/// What is to be done for a queue's dead letters.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The policy of this name does it already.
    Fine(String),
    /// Set this one: it holds everything the one in force held.
    Set(Policy),
    /// A policy sends them elsewhere; whose intention counts is not ours to say.
    Contradiction { policy: String, found: String },
}

/// The keys that a configured dead-lettering means in a policy.
pub fn definition(dead_letter: &DeadLetter) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("dead-letter-exchange".into(), dead_letter.exchange.clone().into());
    if let Some(key) = &dead_letter.routing_key {
        keys.insert("dead-letter-routing-key".into(), key.clone().into());
    }
    keys
}

/// Our policy for one queue when no other applies to it.
pub fn own(queue: &Queue, dead_letter: &DeadLetter) -> Policy {
    Policy {
        name: format!("tailwater-{}", queue.name),
        pattern: format!("^{}$", escape(&queue.name)),
        definition: definition(dead_letter),
        priority: 10,
        apply_to: "queues".into(),
    }
}

/// Looks at the policies of the virtual host and decides.
pub fn decide(queue: &Queue, dead_letter: &DeadLetter, policies: &[Policy]) -> Verdict {
    let mut ours = own(queue, dead_letter);
    let Some(current) = in_force(&queue.name, queue.kind, policies) else { return Verdict::Set(ours) };
    let wanted = definition(dead_letter);
    if wanted.iter().all(|(key, value)| current.definition.get(key) == Some(value))
        && (dead_letter.routing_key.is_some() || !current.definition.contains_key("dead-letter-routing-key"))
    {
        return Verdict::Fine(current.name.clone());
    }
    let elsewhere = ["dead-letter-exchange", "dead-letter-routing-key"].into_iter().find(|key| {
        current.name != ours.name && current.definition.get(*key).is_some_and(|v| wanted.get(*key) != Some(v))
    });
    if let Some(key) = elsewhere {
        return Verdict::Contradiction {
            policy: current.name.clone(),
            found: format!("{key} = {}", current.definition[key]),
        };
    }
    for (key, value) in &current.definition {
        if !key.starts_with("dead-letter-") || current.name != ours.name {
            ours.definition.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    ours.priority = if current.name == ours.name { current.priority } else { current.priority + 1 }.max(10);
    Verdict::Set(ours)
}

/// The one policy that this queue obeys.
pub fn in_force<'a>(queue: &str, kind: QueueKind, policies: &'a [Policy]) -> Option<&'a Policy> {
    policies
        .iter()
        .filter(|policy| policy.apply_to != "exchanges" && known_whole(kind, policy))
        .filter(|policy| fancy_regex::Regex::new(&policy.pattern).is_ok_and(|r| r.is_match(queue).unwrap_or(false)))
        .max_by_key(|policy| policy.priority)
}

/// A policy with a key the type does not know does not apply to it at all.
fn known_whole(kind: QueueKind, policy: &Policy) -> bool {
    policy.definition.keys().all(|key| match kind {
        QueueKind::Classic => !matches!(&**key, "delivery-limit" | "dead-letter-strategy" | "max-in-memory-length"),
        QueueKind::Quorum => !(key.starts_with("ha-") || matches!(&**key, "queue-mode" | "queue-version")),
    })
}

/// The line to type.
pub fn command(virtual_host: &str, policy: &Policy) -> String {
    let definition = Value::Object(policy.definition.clone());
    format!(
        "rabbitmqctl set_policy -p {} {} {} {} --priority {} --apply-to {}",
        quote(virtual_host),
        quote(&policy.name),
        quote(&policy.pattern),
        quote(&definition.to_string()),
        policy.priority,
        policy.apply_to
    )
}

/// For a shell.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// For the broker's regular expressions (PCRE).
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn queue(kind: QueueKind) -> (Queue, DeadLetter) {
        let dead = DeadLetter { exchange: String::new(), routing_key: Some("w.dlq".into()), by: Default::default() };
        (Queue { name: "w.1".into(), kind, durable: true, dead_letter: Some(dead.clone()) }, dead)
    }

    fn policy(name: &str, pattern: &str, priority: i64, definition: Value) -> Policy {
        let Value::Object(definition) = definition else { panic!("an object") };
        Policy { name: name.into(), pattern: pattern.into(), definition, priority, apply_to: "all".into() }
    }

    #[test]
    fn a_policy_of_our_own_names_one_queue_only() {
        let (queue, dead) = queue(QueueKind::Classic);
        let Verdict::Set(ours) = decide(&queue, &dead, &[policy("other", "^z", 99, json!({"message-ttl": 1}))]) else {
            panic!()
        };
        assert_eq!(
            command("/", &ours),
            r#"rabbitmqctl set_policy -p / tailwater-w.1 '^w\.1$' '{"dead-letter-exchange":"","dead-letter-routing-key":"w.dlq"}' --priority 10 --apply-to queues"#
        );
        assert_eq!(decide(&queue, &dead, &[ours]), Verdict::Fine("tailwater-w.1".into()));
    }

    #[test]
    fn another_policy_is_carried_along_never_shadowed() {
        let (queue, dead) = queue(QueueKind::Classic);
        let ttl = policy("ttl", "^w", 20, json!({"message-ttl": 60000}));
        let Verdict::Set(ours) = decide(&queue, &dead, std::slice::from_ref(&ttl)) else { panic!() };
        assert_eq!((ours.priority, &ours.definition["message-ttl"]), (21, &json!(60000)));
        assert_eq!(decide(&queue, &dead, &[ttl, ours]), Verdict::Fine("tailwater-w.1".into()));
    }

    #[test]
    fn a_policy_that_sends_dead_letters_elsewhere_is_not_overruled() {
        let (queue, dead) = queue(QueueKind::Classic);
        let theirs = policy("theirs", "w", 1, json!({"dead-letter-exchange": "dlx"}));
        assert!(
            matches!(decide(&queue, &dead, &[theirs]), Verdict::Contradiction { policy, .. } if policy == "theirs")
        );
    }

    #[test]
    fn a_policy_with_a_key_that_the_type_does_not_know_is_not_in_force() {
        let limit = policy("limit", "w", 50, json!({"delivery-limit": 5, "message-ttl": 7}));
        let ha = policy("ha", "w", 40, json!({"ha-mode": "all"}));
        let all = [limit, ha];
        assert_eq!(in_force("w.1", QueueKind::Classic, &all).unwrap().name, "ha");
        assert_eq!(in_force("w.1", QueueKind::Quorum, &all).unwrap().name, "limit");
    }
}
