//! `tailwater lab`, short, with real servers and every fault: what it prints, what its page shows in a real browser.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use testbed::WorkDir;
use testbed::browser::{dom_and_console, screenshot};

fn lab(arguments: &[&str], envs: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.arg("lab").args(arguments).envs(envs.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn writing_twice_is_seen_to_lose_and_to_invent_and_writing_once_does_neither() {
    let dir = WorkDir::new();
    let page = dir.path().join("lab.html");
    let out = page.display().to_string();
    let arguments = ["--seed", "3", "--orders", "240", "--load", "12s", "--away", "2s", "--json", "--out", &out];
    // what is set around the lab is not its relays' business
    let output = lab(&arguments, &[("TAILWATER_HTTP__LISTEN", "nonsense")]);
    let (stdout, stderr) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();

    // each fault happened while orders came, the service's death twice
    let faults: Vec<&str> = report["faults"].as_array().unwrap().iter().filter_map(|f| f["fault"].as_str()).collect();
    for fault in ["consumer-killed", "relay-killed", "broker-away", "database-restarted", "network-cut"] {
        assert_eq!(faults.iter().filter(|found| **found == fault).count(), 1, "{faults:?}");
    }
    assert_eq!(faults.len(), 7, "{faults:?}");
    assert!(report["asked"].as_u64().unwrap() >= 240);

    let counts = report["counts"].as_array().unwrap();
    let of = |pattern: &str| counts.iter().find(|count| count["pattern"] == pattern).unwrap();
    let number = |pattern: &str, name: &str| of(pattern)[name].as_u64().unwrap();
    // two services died between their two writes, so this much is certain
    assert!(number("database-first", "lost") >= 2 && number("database-first", "phantom") == 0, "{stdout}");
    assert!(number("broker-first", "phantom") >= 2, "{stdout}");
    for pattern in ["polling", "listen-to-yourself", "log-tailing"] {
        for name in ["lost", "phantom", "duplicates_after", "without_effect", "not_applied"] {
            let found =
                if name == "not_applied" && pattern != "listen-to-yourself" { 0 } else { number(pattern, name) };
            assert_eq!(found, 0, "{pattern} {name}: {stdout}");
        }
        assert!(number(pattern, "committed") > 100, "{pattern}: {stdout}");
        assert_eq!(number(pattern, "committed"), number(pattern, "published"), "{pattern}");
        let load = &of(pattern)["load"];
        for name in ["transactions", "rows_written", "blocks", "cpu_ms"] {
            assert!(
                load[name].as_f64().unwrap() > of("database-first")["load"][name].as_f64().unwrap(),
                "{pattern} {name}"
            );
        }
    }
    let again: u64 = counts.iter().map(|count| count["duplicates_before"].as_u64().unwrap()).sum();
    println!("duplicates: {again} deliveries came again, no effect did; {} orders", report["asked"]);
    the_page_shows_it(&page, counts);
}

fn the_page_shows_it(page: &Path, counts: &[Value]) {
    let url = format!("file://{}", page.display());
    let (dom, console) = dom_and_console(&url);
    assert_eq!(console, Vec::<String>::new(), "nothing is wrong with the page");
    // no script, nothing from elsewhere
    for forbidden in ["<script", "http://", "https://", "<link", "<img", "NaN", "inf%"] {
        assert!(!dom.replace("http://www.w3.org/2000/svg", "").contains(forbidden), "{forbidden}");
    }
    let table = between(&dom, "<table id=\"counts\">", "</table>");
    let rows: Vec<&str> =
        between(table, "<tbody>", "</tbody>").split("</tr>").filter(|row| row.contains("<th>")).collect();
    assert_eq!(rows.len(), counts.len());
    for (row, count) in rows.iter().zip(counts) {
        let cells: Vec<&str> = row.split("<td").skip(1).map(|cell| between(cell, ">", "</td>")).collect();
        let names = ["committed", "published", "phantom", "lost", "duplicates_before", "duplicates_after"];
        for (cell, name) in cells.iter().zip(names) {
            assert_eq!(*cell, count[name].to_string(), "{name} in {row}");
        }
        assert_eq!(cells.len(), 11, "{row}");
    }
    // one plot of the run for each pattern, with its events in it; bars for losses and load; a lost and an invented order
    assert_eq!(dom.matches("<svg role=\"img\"").count(), counts.len());
    for svg in dom.split("<svg ").skip(1) {
        assert!(between(svg, ">", "</svg>").matches("<circle").count() > 20, "events are drawn");
    }
    for figure in ["losses", "loads", "cpu"] {
        let figure = between(&dom, &format!("id=\"{figure}\">"), "</figure>");
        assert!(figure.matches("class=\"bar\"").count() >= counts.len());
    }
    for title in ["an order nobody hears of", "an order that never was", "the same death", "late, not lost"] {
        assert!(dom.contains(title), "{title}");
    }
    // it can be painted, on a wide and on a narrow screen
    for (name, size, dark) in [("wide", (1100, 5000), false), ("narrow", (500, 6000), true)] {
        let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lab-{name}.png"));
        screenshot(&url, size, dark, &picture);
        assert!(std::fs::metadata(&picture).unwrap().len() > 50_000, "{}", picture.display());
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no {to}")).0
}

#[test]
fn without_the_servers_it_says_what_to_install() {
    let output = lab(&["--quick"], &[("TAILWATER_KAFKA_LIBS", "/nonexistent")]);
    let (_, stderr) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("TAILWATER_KAFKA_LIBS") && stderr.contains("Java 17"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_wrong_argument_is_refused_with_what_is_allowed() {
    for (arguments, allowed) in [
        (["--load", "1s"], "from 5s to 3600s"),
        (["--orders", "3"], "10..=100000"),
        (["--faults", "rain"], "broker-away"),
        (["--from", "postgres://postgres@localhost/shop"], "uses none of yours"),
    ] {
        let output = lab(&arguments, &[]);
        let (_, stderr) = said(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(allowed), "{arguments:?}: {stderr}");
    }
}
