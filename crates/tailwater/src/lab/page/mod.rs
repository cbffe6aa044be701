//! The report as one HTML page that can be handed to a colleague: no script, no other files, works offline.

mod plots;
mod story;

use super::pattern::Pattern;
use super::{LabError, Report};
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn html(report: &Report, command: &str) -> Result<String, LabError> {
    let mut body = String::new();
    head(&mut body, report);
    body.push_str("<h2>What was counted</h2>");
    table(&mut body, report);
    body.push_str(
        "<p class=note>Everything is counted when all has come to rest: orders from the databases, events from the topics, \
         deliveries and effects from the consumer's tables. No pattern is asked what it did. \
         <b>Phantom</b>: an event whose order was never committed. <b>Lost</b>: a committed order whose event never came. \
         <b>Duplicates before</b>: deliveries of an event that had been delivered already; <b>after</b>: effects behind the \
         inbox. Latency runs from the request to the first delivery, outages included.</p>",
    );
    figure(&mut body, "Lost events and phantoms", &plots::losses(report)?);
    figure(&mut body, "Latency of each event over the run; shaded: a fault is at work", &plots::latencies(report)?);
    figure(&mut body, "What each order costs its database", &plots::loads(report)?);
    body.push_str("<h2>One real failure, moment by moment</h2>");
    story::failures(&mut body, report)?;
    body.push_str("<h2>The patterns</h2>");
    for count in &report.counts {
        let class = if count.pattern.is_ours() { "ours" } else { "naive" };
        put(
            &mut body,
            format_args!(
                "<section class={class}><h3>{}</h3><p>{}</p></section>",
                count.pattern.title(),
                count.pattern.about()
            ),
        );
    }
    foot(&mut body, report, command);
    Ok(format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>What each pattern loses</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    ))
}

fn head(body: &mut String, report: &Report) {
    let naive: Vec<_> = report.counts.iter().filter(|count| !count.pattern.is_ours()).collect();
    let (lost, phantom) = (naive.iter().map(|c| c.lost).sum::<usize>(), naive.iter().map(|c| c.phantom).sum::<usize>());
    let ours = if report.promises_hold() {
        "The other three lost nothing and invented nothing."
    } else {
        "<b>The other three did not keep their promise in this run: see the table.</b>"
    };
    put(
        body,
        format_args!(
            "<h1>What each pattern loses</h1><p class=lead>A service writes an order to its database and tells others about it through \
         a broker. {} orders went through {} ways to do that, side by side on the same servers, while services, relays and \
         consumers were killed, the broker was away for {} s, the database was restarted and the network was cut. Writing \
         twice lost {lost} events and invented {phantom}. {ours}</p>",
            report.plan.orders,
            report.counts.len(),
            report.plan.away.as_secs(),
        ),
    );
}

fn table(body: &mut String, report: &Report) {
    body.push_str(
        "<div class=wide><table id=counts><thead><tr><th>pattern</th><th>committed</th><th>published</th><th>phantom</th>\
         <th>lost</th><th>duplicates before</th><th>after the inbox</th><th>p50</th><th>p99</th><th>transactions per order</th>\
         </tr></thead><tbody>",
    );
    for count in &report.counts {
        let bad = |n: usize| if n > 0 { format!("<td class=bad>{n}</td>") } else { "<td class=good>0</td>".into() };
        put(
            body,
            format_args!(
                "<tr><th>{}</th><td>{}</td><td>{}</td>{}{}<td>{}</td>{}<td>{}</td><td>{}</td><td>{:.2}</td></tr>",
                count.pattern.title(),
                count.committed,
                count.published,
                bad(count.phantom),
                bad(count.lost),
                count.duplicates_before,
                bad(count.duplicates_after),
                time(count.latency.p50_ms),
                time(count.latency.p99_ms),
                count.load.transactions,
            ),
        );
    }
    body.push_str("</tbody></table></div>");
}

fn figure(body: &mut String, caption: &str, svg: &str) {
    put(body, format_args!("<figure>{svg}<figcaption>{caption}</figcaption></figure>"));
}

fn foot(body: &mut String, report: &Report, command: &str) {
    let versions: Vec<_> =
        report.versions.iter().map(|(name, version)| format!("{name} {}", escape(version))).collect();
    put(
        body,
        format_args!(
            "<footer><p>Seed {}, {} orders over {} s. {}. Once more: <code>{}</code></p><p>One machine and a small load: this shows \
         what gets lost, not how fast anything is. A request gives up on the broker after {} ms, as one does that a customer \
         waits for. Faults hit all patterns at the same moment; which orders they catch differs from run to run.</p></footer>",
            report.plan.seed,
            report.plan.orders,
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

/// Colour of a pattern in all plots.
fn colour(pattern: Pattern) -> (u8, u8, u8) {
    match pattern {
        Pattern::DatabaseFirst => (201, 76, 76),
        Pattern::BrokerFirst => (219, 141, 57),
        Pattern::Polling => (66, 133, 180),
        Pattern::ListenToYourself => (111, 157, 92),
        Pattern::LogTailing => (112, 98, 176),
    }
}
