//! The report as one HTML page that can be handed to a colleague: no script, no other files, works offline, on a narrow
//! screen and in the dark.

mod plots;
mod story;

use super::count::Count;
use super::faults::{Fault, Happened};
use super::pattern::Pattern;
use super::{LabError, Report};
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn html(report: &Report, command: &str) -> Result<String, LabError> {
    let mut body = String::new();
    head(&mut body, report);
    tiles(&mut body, report);
    body.push_str("<h2>What was counted</h2>");
    table(&mut body, report);
    body.push_str(
        "<dl class=note><dt>committed</dt><dd>orders that the database holds (listen to yourself: stored events)</dd>\
         <dt>published</dt><dd>events that the topic holds, each counted once</dd>\
         <dt>phantom</dt><dd>an event without a committed order</dd><dt>lost</dt><dd>a committed order without an event</dd>\
         <dt>duplicates</dt><dd>before the inbox: deliveries of an event that was delivered already; after it: effects that \
         happened again</dd><dt>latency</dt><dd>from the request to the first delivery at the consumer, outages included</dd>\
         <dt>extra load</dt><dd>per order, beyond the one transaction and the one row of the order itself; CPU: of all \
         sessions of the pattern's database, in all</dd></dl>\
         <p class=note>Everything is counted when all has come to rest: orders from the databases, events from the topics, \
         deliveries and effects from the consumer's tables. No pattern is asked what it did.</p>",
    );
    body.push_str("<h2>Lost and invented</h2>");
    bars(&mut body, report, "losses", &[("lost", &|c| c.lost as f64), ("phantom", &|c| c.phantom as f64)]);
    body.push_str("<h2>The run, event by event</h2>");
    plots::timelines(&mut body, report)?;
    body.push_str("<h2>What an order costs the database</h2>");
    bars(&mut body, report, "loads", &[("transactions", &|c| c.load.transactions), ("rows", &|c| c.load.rows_written)]);
    bars(&mut body, report, "cpu", &[("CPU, ms", &|c| c.load.cpu_ms)]);
    body.push_str(
        "<p class=note>In the pattern's own database, while the load ran: the service, the relay and, in listen to yourself, \
         the consumer that applies the orders. The dual writes are what an order costs by itself. PostgreSQL counts a \
         transaction for each one that the reader of its log decodes, too.</p>",
    );
    body.push_str("<h2>What happened to single orders</h2>");
    story::failures(&mut body, report);
    body.push_str("<h2>The patterns</h2>");
    for count in &report.counts {
        let (name, kind) = (count.pattern.name(), if count.pattern.is_ours() { "ours" } else { "naive" });
        let (title, about) = (count.pattern.title(), count.pattern.about());
        put(&mut body, format_args!("<section class=\"{kind} {name}\"><h3>{title}</h3><p>{about}</p></section>"));
    }
    foot(&mut body, report, command);
    let colours: String = Pattern::ALL.iter().map(|pattern| rule(*pattern)).collect();
    Ok(format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width, \
         initial-scale=1\"><title>What each pattern loses</title><style>{STYLE}{colours}</style></head><body><main>{body}\
         </main></body></html>\n"
    ))
}

fn naive(report: &Report) -> impl Iterator<Item = &Count> + Clone {
    report.counts.iter().filter(|count| !count.pattern.is_ours())
}

fn ours(report: &Report) -> impl Iterator<Item = &Count> + Clone {
    report.counts.iter().filter(|count| count.pattern.is_ours())
}

fn head(body: &mut String, report: &Report) {
    let patterns = match report.counts.len() {
        1 => "one way".to_owned(),
        n => format!("{n} ways"),
    };
    put(
        body,
        format_args!(
            "<header><h1>What each pattern loses</h1><p class=lead>A service writes an order to its database and tells others \
             about it through a broker. {} orders went through {patterns} to do that, on the same servers and at the same \
             moments, while {}. Then everything was counted.</p></header>",
            report.asked,
            faults(report),
        ),
    );
}

/// What was done to them, as part of a sentence.
fn faults(report: &Report) -> String {
    let mut said = Vec::new();
    for fault in &report.plan.faults {
        let lasted = |of: &Happened| time((of.to_us - of.from_us) as f64 / 1000.0);
        said.push(match fault {
            Fault::ServiceKilled => "services were killed between their writes".to_owned(),
            Fault::ConsumerKilled => "consumers were killed".to_owned(),
            Fault::RelayKilled => "relays were killed".to_owned(),
            Fault::DatabaseRestarted => "the database was restarted".to_owned(),
            Fault::NetworkCut => "the network was cut".to_owned(),
            Fault::BrokerAway => {
                let away =
                    report.faults.iter().find(|happened| happened.fault == *fault).map_or_else(String::new, lasted);
                format!("the broker was away for {away}")
            }
        });
    }
    match said.as_slice() {
        [] => "nothing was broken".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The result in four numbers.
fn tiles(body: &mut String, report: &Report) {
    body.push_str("<div class=tiles>");
    let mut tile = |number: usize, bad: bool, text: &str| {
        let class = if bad { "bad" } else { "good" };
        put(body, format_args!("<div class={class}><b>{number}</b><span>{text}</span></div>"));
    };
    if naive(report).next().is_some() {
        let lost = naive(report).map(|count| count.lost).sum();
        let phantom = naive(report).map(|count| count.phantom).sum();
        tile(lost, lost > 0, "events lost by writing twice");
        tile(phantom, phantom > 0, "events invented by writing twice");
    }
    if ours(report).next().is_some() {
        let wrong: usize = ours(report).map(|c| c.lost + c.phantom + c.without_effect + c.not_applied).sum();
        let again: usize = ours(report).map(|count| count.duplicates_after).sum();
        let repeated: usize = ours(report).map(|count| count.duplicates_before).sum();
        tile(wrong, wrong > 0, "lost or invented by writing once");
        tile(again, again > 0, &format!("effects that happened twice, of {repeated} repeated deliveries"));
    }
    body.push_str("</div>");
    if !report.promises_hold() {
        body.push_str(
            "<p class=alarm><b>A pattern that promises it did not keep what was committed in this run: see the table.</b></p>",
        );
    }
}

fn table(body: &mut String, report: &Report) {
    body.push_str(
        "<div class=wide><table id=counts><thead><tr><th rowspan=2>pattern</th><th rowspan=2>committed</th>\
         <th rowspan=2>published</th><th rowspan=2>phantom</th><th rowspan=2>lost</th><th colspan=2>duplicates</th>\
         <th colspan=2>latency</th><th colspan=3>extra load per order</th></tr><tr><th>before</th><th>after inbox</th>\
         <th>p50</th><th>p99</th><th>transactions</th><th>rows</th><th>CPU</th></tr></thead><tbody>",
    );
    for count in &report.counts {
        let bad = |n: usize| if n > 0 { format!("<td class=bad>{n}</td>") } else { "<td class=good>0</td>".into() };
        put(
            body,
            format_args!(
                "<tr class={}><th>{}</th><td>{}</td><td>{}</td>{}{}<td>{}</td>{}<td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{:.1} ms</td></tr>",
                count.pattern.name(),
                count.pattern.title(),
                count.committed,
                count.published,
                bad(count.phantom),
                bad(count.lost),
                count.duplicates_before,
                bad(count.duplicates_after),
                time(count.latency.p50_ms),
                time(count.latency.p99_ms),
                count.load.extra_transactions(),
                count.load.extra_rows(),
                count.load.cpu_ms,
            ),
        );
    }
    body.push_str("</tbody></table></div>");
}

/// A named number of each pattern.
type Value<'a> = (&'a str, &'a dyn Fn(&Count) -> f64);

/// Rows of bars on one scale: one row for each pattern and value.
fn bars(body: &mut String, report: &Report, id: &str, values: &[Value<'_>]) {
    let all = report.counts.iter().flat_map(|count| values.iter().map(move |(_, value)| value(count)));
    let (most, whole) = (all.clone().fold(f64::MIN_POSITIVE, f64::max), all.clone().all(|value| value.fract() == 0.0));
    put(body, format_args!("<figure class=bars id={id}>"));
    for count in &report.counts {
        put(body, format_args!("<div class=\"group {}\"><h3>{}</h3>", count.pattern.name(), count.pattern.title()));
        for (label, value) in values {
            let value = value(count);
            let shown = if whole { format!("{value}") } else { format!("{value:.2}") };
            let width = value / most * 100.0;
            put(
                body,
                format_args!(
                    "<div class=bar><span>{label}</span><div class=track><i style=\"width:{width:.2}%\"></i><b>{shown}</b></div></div>"
                ),
            );
        }
        body.push_str("</div>");
    }
    body.push_str("</figure>");
}

fn foot(body: &mut String, report: &Report, command: &str) {
    let versions: Vec<_> =
        report.versions.iter().map(|(name, version)| format!("{name} {}", escape(version))).collect();
    put(
        body,
        format_args!(
            "<footer><p>Seed {}, {} orders over {} s. {}. Once more: <code>{}</code></p><p>One machine and a small load: this \
             shows what gets lost, not how fast anything is. A request gives up on the broker after {} ms, as one does that a \
             customer waits for, and nobody asks again. Faults hit all patterns at the same moment; which orders they catch \
             differs from run to run.</p></footer>",
            report.plan.seed,
            report.asked,
            report.plan.load.as_secs(),
            versions.join(", "),
            escape(command),
            super::service::PATIENCE.as_millis(),
        ),
    );
}

fn put(body: &mut String, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("writing to a String cannot fail");
}

fn time(ms: f64) -> String {
    if ms >= 1000.0 { format!("{:.1} s", ms / 1000.0) } else { format!("{ms:.0} ms") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Colour of a pattern, in plots and rules.
fn colour(pattern: Pattern) -> (u8, u8, u8) {
    match pattern {
        Pattern::DatabaseFirst => (207, 84, 74),
        Pattern::BrokerFirst => (214, 137, 44),
        Pattern::Polling => (52, 131, 191),
        Pattern::ListenToYourself => (69, 152, 104),
        Pattern::LogTailing => (127, 104, 196),
    }
}

fn rule(pattern: Pattern) -> String {
    let (red, green, blue) = colour(pattern);
    format!(".{}{{--of:rgb({red} {green} {blue})}}\n", pattern.name())
}
