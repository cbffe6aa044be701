//! The timeline of a real loss and of a real phantom, from what was recorded in this very run.

use super::super::count::Count;
use super::super::faults::Happened;
use super::super::{LabError, Report};
use super::{escape, put};

/// One of each kind, if there was one.
pub fn failures(body: &mut String, report: &Report) -> Result<(), LabError> {
    let lost = report.counts.iter().find_map(|count| Some((count, choose(report, count, &count.facts.lost)?)));
    let phantom = report.counts.iter().find_map(|count| Some((count, choose(report, count, &count.facts.phantom)?)));
    if let Some((count, id)) = lost {
        put(body, format_args!("<h3>{}: an order nobody hears of</h3>", count.pattern.title()));
        let first = format!("Order <code>{}</code> is committed. The customer can see it.", escape(id));
        let last = "At the end of the run the topic holds no event for it. Nobody reserves, nobody ships, and nothing that is \
                    alive knows that there is anything to send.";
        moments(body, report, count, id, (count.facts.committed_us.get(id), &first), last);
    }
    if let Some((count, id)) = phantom {
        put(body, format_args!("<h3>{}: an order that never was</h3>", count.pattern.title()));
        let first =
            format!("The event of order <code>{}</code> is confirmed by the broker. Consumers act on it.", escape(id));
        let last = "At the end of the run the database holds no such order. Stock is reserved and a mail is sent for something \
                    that cannot be looked up.";
        moments(body, report, count, id, (count.facts.published_us.get(id), &first), last);
    }
    if lost.is_none() && phantom.is_none() {
        body.push_str(
            "<p>In this run nothing was lost and nothing was invented, by any pattern. Another seed will do.</p>",
        );
    }
    Ok(())
}

/// Best one whose service was killed at the weak point: that is the shortest story.
fn choose<'a>(report: &Report, count: &Count, ids: &'a [String]) -> Option<&'a String> {
    ids.iter().find(|id| killed(report, count, id).is_some()).or_else(|| ids.first())
}

fn killed(report: &Report, count: &Count, id: &str) -> Option<i64> {
    let point = report.points.iter().find(|point| point.pattern == count.pattern && point.id == id)?;
    Some(point.killed_us)
}

fn moments(body: &mut String, report: &Report, count: &Count, id: &str, first: (Option<&i64>, &str), last: &str) {
    let at = first.0.copied().unwrap_or(report.began_us);
    body.push_str("<ol class=moments>");
    match (killed(report, count, id), cause(report, at)) {
        (Some(us), _) => {
            moment(body, report, at, false, first.1);
            moment(body, report, us, true, "The service gets <code>kill -9</code>, before its second write.");
        }
        (None, Some(fault)) if fault.from_us < at => {
            moment(body, report, fault.from_us, true, &upper(&format!("{}.", fault.fault.title())));
            moment(body, report, at, false, first.1);
        }
        (None, fault) => {
            moment(body, report, at, false, first.1);
            if let Some(fault) = fault {
                moment(body, report, fault.from_us, true, &upper(&format!("{}.", fault.fault.title())));
            }
        }
    }
    moment(body, report, end_us(report).max(at), true, last);
    body.push_str("</ol>");
}

/// The fault that was at work around this moment, or came next.
fn cause(report: &Report, us: i64) -> Option<&Happened> {
    let around = |fault: &&Happened| fault.from_us - 3_000_000 <= us && us <= fault.to_us + 1_000_000;
    report.faults.iter().filter(around).min_by_key(|fault| (fault.from_us - us).abs())
}

fn end_us(report: &Report) -> i64 {
    let load = report.began_us + report.plan.load.as_micros() as i64;
    report.faults.iter().map(|fault| fault.to_us).fold(load, i64::max)
}

fn moment(body: &mut String, report: &Report, us: i64, bad: bool, text: &str) {
    let class = if bad { " class=bad" } else { "" };
    let seconds = (us - report.began_us) as f64 / 1e6;
    put(body, format_args!("<li{class}><time>{seconds:.3} s</time>{text}</li>"));
}

fn upper(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
