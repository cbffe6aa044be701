//! The list of keys in docs/debezium.md, written from the table so that it cannot say anything else.

use super::keys::{GROUPS, Key, Status};
use std::fmt::Write;

/// How many keys work, have no meaning here, are refused.
pub fn counts() -> (usize, usize, usize) {
    let mut counts = (0, 0, 0);
    for key in super::keys::all() {
        match key.status {
            Status::Works(..) => counts.0 += 1,
            Status::Ignored(_) | Status::StrictOnly(..) => counts.1 += 1,
            Status::Refused(..) => counts.2 += 1,
        }
    }
    counts
}

/// The whole list as Markdown.
pub fn markdown() -> String {
    let (works, ignored, refused) = counts();
    let mut out = format!("{works} keys work, {ignored} have no meaning here, {refused} are refused.\n");
    for (title, keys) in GROUPS {
        let _ = write!(out, "\n### {title}\n\n| Key | Here | Note |\n|---|---|---|\n");
        for key in *keys {
            out.push_str(&row(key));
        }
    }
    out
}

fn row(key: &Key) -> String {
    let list = |values: &[&str]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    let (here, note) = match key.status {
        Status::Works(_, note) => ("works", note.to_owned()),
        Status::Ignored(why) => ("without meaning", why.to_owned()),
        Status::StrictOnly(same, why) => {
            ("without meaning", format!("{why}; in strict compatibility refused but for {}", list(same)))
        }
        Status::Refused([], why) => ("refused", why.to_owned()),
        Status::Refused([""], why) => ("refused", format!("{why}; accepted empty")),
        Status::Refused(harmless, why) => ("refused", format!("{why}; accepted with {}", list(harmless))),
    };
    format!("| `{}` | {here} | {note} |\n", key.name)
}
