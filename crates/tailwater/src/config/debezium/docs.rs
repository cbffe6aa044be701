//! The list of keys in docs/debezium.md, written from the table so that it cannot say anything else.

use super::keys::{GROUPS, Key, Mode, Status};
use std::fmt::Write;

/// How many keys work, have no meaning here, are refused.
pub fn counts(mode: Mode) -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for key in super::keys::all() {
        match key.status(mode) {
            Status::Works(..) => counts.0 += 1,
            Status::Ignored(_) | Status::StrictOnly(..) => counts.1 += 1,
            Status::Refused(..) => counts.2 += 1,
        }
    }
    counts
}

/// The whole list as Markdown.
pub fn markdown() -> String {
    let said = |mode| {
        let (works, ignored, refused) = counts(mode);
        format!("{works} keys work, {ignored} have no meaning, {refused} are refused")
    };
    let mut out = format!("With an outbox {}; with change events {}.\n", said(Mode::Outbox), said(Mode::Changes));
    for (title, keys) in GROUPS {
        let _ = write!(out, "\n### {title}\n\n| Key | Outbox | Change events | Note |\n|---|---|---|---|\n");
        for key in *keys {
            out.push_str(&row(key));
        }
    }
    out
}

fn row(key: &Key) -> String {
    let (outbox, note) = words(key.status(Mode::Outbox));
    let (changes, other) = words(key.status(Mode::Changes));
    let note = match (note.as_str(), other.as_str()) {
        (note, other) if note == other => note.to_owned(),
        ("", other) => format!("change events: {other}"),
        (note, "") => format!("outbox: {note}"),
        (note, other) => format!("outbox: {note}. Change events: {other}"),
    };
    format!("| `{}` | {outbox} | {changes} | {note} |\n", key.name)
}

fn words(status: Status) -> (&'static str, String) {
    let list = |values: &[&str]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    match status {
        Status::Works(_, note) => ("works", note.to_owned()),
        Status::Ignored(why) => ("without meaning", why.to_owned()),
        Status::StrictOnly(same, why) => {
            ("without meaning", format!("{why}; in strict compatibility refused but for {}", list(same)))
        }
        Status::Refused([], why) => ("refused", why.to_owned()),
        Status::Refused([""], why) => ("refused", format!("{why}; accepted empty")),
        Status::Refused(harmless, why) => ("refused", format!("{why}; accepted with {}", list(harmless))),
    }
}
