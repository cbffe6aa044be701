//! The timeline of a real loss and of a real phantom, from what was recorded in this very run.

use super::super::count::Count;
use super::super::faults::Happened;
use super::super::{LabError, Report};
use super::{escape, put};

/// One of each kind, if there was one.
pub fn failures(body: &mut String, report: &Report) -> Result<(), LabError> {
    let lost = report.counts.iter().find_map(|count| Some((count, count.facts.lost.first()?)));
    let phantom = report.counts.iter().find_map(|count| Some((count, count.facts.phantom.first()?)));
    if let Some((count, id)) = lost {
        lost_order(body, report, count, id);
    }
    if let Some((count, id)) = phantom {
        phantom_order(body, report, count, id);
    }
    if lost.is_none() && phantom.is_none() {
        body.push_str("<p>In this run nothing was lost and nothing was invented, by any pattern. Another seed will do.</p>");
    }
    Ok(())
}

fn lost_order(body: &mut String, report: &Report, count: &Count, id: &str) {
    let committed = count.facts.committed_us.get(id).copied().unwrap_or(report.began_us);
    put(body, format_args!("<h3>{}: an order nobody hears of</h3><ol class=moments>", count.pattern.title()));
    moment(body, report, committed, false, &format!("Order <code>{}</code> is committed. The customer can see it.", escape(id)));
    if let Some(fault) = cause(report, committed) {
        let text = format!("{}.", fault.fault.title());
        moment(body, report, fault.from_us, true, &upper(&text));
    }
    let end = end_us(report);
    let text = "At the end of the run the topic holds no event for it. Nobody reserves, nobody ships, and no process that is \
                alive knows that there is anything to send.";
    moment(body, report, end, true, text);
    body.push_str("</ol>");
}

fn phantom_order(body: &mut String, report: &Report, count: &Count, id: &str) {
    let published = count.facts.published_us.get(id).copied().unwrap_or(report.began_us);
    put(body, format_args!("<h3>{}: an order that never was</h3><ol class=moments>", count.pattern.title()));
    let text = format!("The event of order <code>{}</code> is confirmed by the broker. Consumers act on it.", escape(id));
    moment(body, report, published, false, &text);
    if let Some(fault) = cause(report, published) {
        moment(body, report, fault.from_us, true, &upper(&format!("{}.", fault.fault.title())));
    }
    let text = "At the end of the run the database holds no such order. Stock is reserved and a mail is sent for something \
                that cannot be looked up.";
    moment(body, report, end_us(report), true, text);
    body.push_str("</ol>");
}

/// The fault that was at work around this moment, or came next.
fn cause(report: &Report, us: i64) -> Option<&Happened> {
    let around = |fault: &&Happened| fault.from_us - 3_000_000 <= us && us <= fault.to_us + 1_000_000;
    report.faults.iter().filter(around).min_by_key(|fault| (fault.from_us - us).abs())
}

fn end_us(report: &Report) -> i64 {
    report.began_us + report.plan.load.as_micros() as i64
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
