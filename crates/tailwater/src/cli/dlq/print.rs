//! Dead letters as text and as JSON. A payload is shown where one letter is asked for by its id, and nowhere else.

use crate::dlq::{Letter, Origin, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// A letter without headers and body: what a list keeps of it.
#[derive(Clone, Debug)]
pub struct Line {
    id: String,
    place: String,
    event_type: Option<String>,
    key: Option<String>,
    reason: String,
    origin: Option<Origin>,
    age: Option<Duration>,
    died_at: Option<i64>,
    made_at: Option<i64>,
    bytes: usize,
}

impl Line {
    pub fn of(letter: &Letter, now_s: i64) -> Line {
        Line {
            id: letter.id().to_owned(),
            place: letter.place.clone(),
            event_type: letter.event_type.clone(),
            key: letter.key.clone(),
            reason: letter.reason.clone().unwrap_or_else(|| "no reason given".into()),
            origin: letter.origin.clone(),
            age: letter.age(now_s),
            died_at: letter.died_at,
            made_at: letter.made_at,
            bytes: letter.body.len(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id, "place": self.place, "type": self.event_type, "key": self.key, "reason": self.reason,
            "origin": self.origin.as_ref().map(origin_json), "died_at": time(self.died_at), "made_at": time(self.made_at),
            "age_s": self.age.map(|age| age.as_secs()), "bytes": self.bytes,
        })
    }

    fn text(&self) -> String {
        let kind = self.event_type.as_deref().or(self.key.as_deref()).unwrap_or("-");
        format!(
            "  {:<6} {:<38} {:<26} {:>5}  {}",
            self.place,
            self.id,
            cut(kind, 26),
            age(self.age),
            cut(&self.reason, 60)
        )
    }
}

/// Counts by reason, then the letters.
pub fn list(name: &str, outcome: &Outcome, found: &[Line], limit: usize, as_json: bool) {
    let mut reasons: BTreeMap<&str, (usize, Option<Duration>)> = BTreeMap::new();
    for line in found {
        let (count, oldest) = reasons.entry(&line.reason).or_default();
        *count += 1;
        *oldest = (*oldest).max(line.age);
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    if as_json {
        let counts: Vec<_> = reasons.iter().map(|(reason, (count, oldest))| {
            json!({ "reason": reason, "count": count, "oldest_s": oldest.map(|age| age.as_secs()) })
        }).collect();
        let letters: Vec<_> = found.iter().take(limit).map(Line::json).collect();
        let all = json!({ "place": name, "letters_total": outcome.seen, "matching": found.len(), "reasons": counts,
                          "letters": letters, "notes": outcome.notes });
        println!("{all:#}");
        return;
    }
    let some = if found.len() == outcome.seen { String::new() } else { format!(", {} of them asked for", found.len()) };
    println!("{name}: {} dead letter{}{some}", outcome.seen, if outcome.seen == 1 { "" } else { "s" });
    if !found.is_empty() {
        println!("\n  count  oldest  reason");
    }
    for (reason, (count, oldest)) in &reasons {
        println!("  {count:>5}  {:>6}  {reason}", age(*oldest));
    }
    if !found.is_empty() && limit > 0 {
        println!("\n  {:<6} {:<38} {:<26} {:>5}  reason", "place", "id", "type", "age");
    }
    found.iter().take(limit).for_each(|line| println!("{}", line.text()));
    if found.len() > limit && limit > 0 {
        println!("  … and {} more (--limit)", found.len() - limit);
    }
    notes(outcome);
}

/// Everything about them, the body too.
pub fn letters(found: &[Letter], body_only: bool, as_json: bool, now_s: i64) {
    if body_only {
        // One body, byte for byte: what a mended copy is made from.
        let _ = std::io::stdout().write_all(&found[0].body);
        return;
    }
    for letter in found {
        let line = Line::of(letter, now_s);
        if as_json {
            let mut value = line.json();
            value["headers"] = Value::Object(letter.headers.clone());
            value["content_type"] = json!(letter.content_type);
            value["body"] = match std::str::from_utf8(&letter.body) {
                Ok(text) => json!(text),
                Err(_) => json!({ "not_utf8": true, "bytes": letter.body.len() }),
            };
            println!("{value:#}");
            continue;
        }
        println!("id            {}", line.id);
        println!("place         {}", line.place);
        println!("type          {}", line.event_type.as_deref().unwrap_or("-"));
        println!("reason        {}", line.reason);
        println!("came from     {}", line.origin.as_ref().map_or_else(|| "unknown".into(), origin_text));
        println!("dead since    {} ({})", time(line.died_at).unwrap_or_else(|| "unknown".into()), age(line.age));
        println!("made at       {}", time(line.made_at).unwrap_or_else(|| "unknown".into()));
        println!("content type  {}", letter.content_type.as_deref().unwrap_or("-"));
        println!("headers");
        letter.headers.iter().for_each(|(name, value)| println!("  {name}: {value}"));
        println!("body          {} bytes", line.bytes);
        println!("{}\n", body_text(&letter.body));
    }
}

pub fn replayed(name: &str, outcome: &Outcome, chosen: &[Line], dry_run: bool, as_json: bool) {
    if as_json {
        let kept: Vec<_> = outcome.kept.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect();
        let all = json!({ "place": name, "dry_run": dry_run, "letters_total": outcome.seen,
                          "chosen": chosen.iter().map(Line::json).collect::<Vec<_>>(), "replayed": outcome.replayed,
                          "kept": kept, "notes": outcome.notes });
        println!("{all:#}");
        return;
    }
    if dry_run {
        chosen.iter().for_each(|line| println!("{}", line.text()));
        println!("{name}: {} of {} letters would be replayed", chosen.len(), outcome.seen);
    } else {
        println!(
            "{name}: {} of {} letters replayed, each confirmed before it was removed",
            outcome.replayed, outcome.seen
        );
    }
    for (id, why) in &outcome.kept {
        eprintln!("kept {id}: {why}");
    }
    notes(outcome);
}

pub fn purged(name: &str, outcome: &Outcome, chosen: &[Line], dry_run: bool, as_json: bool) {
    if as_json {
        let all = json!({ "place": name, "dry_run": dry_run, "letters_total": outcome.seen, "chosen": chosen.len(),
                          "removed": outcome.removed, "notes": outcome.notes });
        println!("{all:#}");
        return;
    }
    if dry_run {
        chosen.iter().for_each(|line| println!("{}", line.text()));
        println!("{name}: {} of {} letters would be removed", chosen.len(), outcome.seen);
    } else {
        println!("{name}: {} of {} letters removed", outcome.removed, outcome.seen);
    }
    for (id, why) in &outcome.kept {
        eprintln!("kept {id}: {why}");
    }
    notes(outcome);
}

/// On stderr: they are no data.
pub fn notes(outcome: &Outcome) {
    outcome.notes.iter().for_each(|note| eprintln!("note: {note}"));
}

/// The two largest units are not worth the width: one is enough.
pub fn age(age: Option<Duration>) -> String {
    match age.map(|age| age.as_secs()) {
        None => "?".into(),
        Some(s @ 0..120) => format!("{s}s"),
        Some(s @ 120..7200) => format!("{}m", s / 60),
        Some(s @ 7200..172_800) => format!("{}h", s / 3600),
        Some(s) => format!("{}d", s / 86_400),
    }
}

fn time(at: Option<i64>) -> Option<String> {
    at.and_then(|at| jiff::Timestamp::from_second(at).ok()).map(|at| at.to_string())
}

fn origin_json(origin: &Origin) -> Value {
    match origin {
        Origin::Rabbitmq { exchange, routing_key, queue } => {
            json!({ "exchange": exchange, "routing_key": routing_key, "queue": queue })
        }
        Origin::Kafka { topic, partition } => json!({ "topic": topic, "partition": partition }),
    }
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Rabbitmq { exchange, routing_key, queue } => {
            let queue = queue.as_ref().map(|queue| format!(", queue {queue}")).unwrap_or_default();
            format!("exchange `{exchange}`, routing key `{routing_key}`{queue}")
        }
        Origin::Kafka { topic, partition } => match partition {
            Some(partition) => format!("topic {topic}, partition {partition}"),
            None => format!("topic {topic}"),
        },
    }
}

fn cut(text: &str, width: usize) -> String {
    let text = text.replace(['\n', '\r'], " ");
    if text.chars().count() <= width { text } else { text.chars().take(width - 1).chain(['…']).collect() }
}

/// A terminal is no place for control characters.
fn body_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let of = |seconds: u64| age(Some(Duration::from_secs(seconds)));
        assert_eq!([of(5), of(300), of(7200), of(900_000), age(None)], ["5s", "5m", "2h", "10d", "?"]);
    }

    #[test]
    fn a_body_cannot_command_the_terminal() {
        assert_eq!(body_text(b"a\x1b[2Jb\n\xff"), "a\u{fffd}[2Jb\n\u{fffd}");
    }
}
