//! The router in strict compatibility against what Debezium put out, byte for byte, with no server.
//!
//! Raw `pgoutput` bytes go through the decoder and the router; key, value, headers, topic, partition and time are compared
//! with the recorded ones. Differences that are meant are listed in `listed.toml`, each with its reason.

#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

mod case;
mod compare;
mod pointer;
mod settings;

use case::Case;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// What a case came to.
enum Verdict {
    Same,
    /// By this property of its configuration.
    Refused(String),
    Different(String),
}

fn verdict(case: &Case) -> Verdict {
    let failed = case.recorded["status"] == "failed";
    let settings = match settings::of(case) {
        Ok(settings) => settings,
        // Debezium refuses it as well.
        Err(_) if failed => return Verdict::Same,
        Err(property) => return Verdict::Refused(property),
    };
    let mut chain = match settings.chain(case) {
        Ok(chain) => chain,
        Err(_) if failed => return Verdict::Same,
        Err(error) => return Verdict::Refused(error.to_string()),
    };
    let outcome = case.run(&settings, &mut chain);
    if let Err(difference) = compare::check(case, &settings, &outcome) {
        return Verdict::Different(difference);
    }
    match settings.direct(case) {
        None => {
            let mut ids: Vec<_> = outcome.messages.iter().map(|message| &message.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), outcome.messages.len(), "{}: every record has an id of its own", case.name);
        }
        Some(mut router) => {
            let alone = case.run(&settings, &mut *router);
            if alone.messages != outcome.messages || alone.rejected.len() != outcome.rejected.len() {
                return Verdict::Different(format!("the router alone differs: {:?} {:?}", alone, outcome));
            }
        }
    }
    Verdict::Same
}

/// The list's lines are `case = "reason"`.
fn listed(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join("listed.toml")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, reason) = line.split_once(" = ").expect("a line of the list is: case = \"reason\"");
            assert!(reason.len() > 20, "{name} needs a reason");
            (name.to_owned(), reason.to_owned())
        })
        .collect()
}

#[test]
fn golden_cases_come_out_as_debezium_recorded_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut listed = listed(&folder);
    // By group: same, listed, refused.
    let mut groups: BTreeMap<char, [usize; 3]> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in Case::all(&folder) {
        let reason = listed.remove(&case.name);
        let [same, known, refusals] = groups.entry(case.name.chars().next().unwrap()).or_default();
        match (verdict(&case), reason) {
            (Verdict::Same, None) => *same += 1,
            (Verdict::Same, Some(_)) => {
                problems.push(format!("{}: listed as different, but it is the same", case.name))
            }
            (Verdict::Different(_), Some(_)) => *known += 1,
            (Verdict::Refused(property), None) => {
                *refusals += 1;
                refused.entry(property).or_default().push(case.name);
            }
            (Verdict::Refused(property), Some(_)) => {
                problems.push(format!("{}: listed, but its configuration is refused: {property}", case.name))
            }
            (Verdict::Different(difference), None) => problems.push(format!("{}: {difference}", case.name)),
        }
    }
    problems.extend(listed.into_keys().map(|name| format!("{name}: listed, but there is no such case")));
    // Past the capture of the test harness: the numbers are for people.
    let mut out = std::io::stdout();
    let sum = |index: usize| groups.values().map(|group| group[index]).sum::<usize>();
    let (same, known, count) = (sum(0), sum(1), sum(2));
    writeln!(out, "golden: same {same}, listed {known}, refused {count}, unexplained {}", problems.len()).unwrap();
    for (group, [same, known, refused]) in &groups {
        writeln!(out, "  {group}_…: same {same}, listed {known}, refused {refused}").unwrap();
    }
    for (property, cases) in &refused {
        writeln!(out, "  refused by {property}: {}", cases.join(" ")).unwrap();
    }
    assert!(problems.is_empty(), "{} unexplained:\n{}", problems.len(), problems.join("\n"));
    assert_eq!(same + known + count, 500, "the cases are there");
}
