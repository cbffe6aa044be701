//! What happened to single orders, moment by moment, from what was recorded in this very run: one that was lost, one that
//! was invented, one whose service died in the same way under an outbox, and the slowest one that came all the same.

use super::super::Report;
use super::super::count::Count;
use super::super::faults::Happened;
use super::{escape, naive, ours, put, time};

/// How a moment looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Bad,
    Good,
}

/// µs since 1970, and what happened.
type Moment = (i64, Kind, String);

/// One of each kind, if there was one.
pub fn failures(body: &mut String, report: &Report) {
    let first = |ids: fn(&Count) -> &[String]| {
        naive(report).find_map(|count| Some((count, choose(report, count, ids(count))?)))
    };
    let (lost, phantom) = (first(|count| &count.facts.lost), first(|count| &count.facts.phantom));
    if let Some((count, id)) = lost {
        told(body, count, "an order nobody hears of", id, moments_of_lost(report, count, id), report);
    }
    if let Some((count, id)) = phantom {
        told(body, count, "an order that never was", id, moments_of_phantom(report, count, id), report);
    }
    if lost.is_none() && phantom.is_none() && naive(report).next().is_some() {
        body.push_str("<p>In this run writing twice lost nothing and invented nothing. Another seed will do.</p>");
    }
    if let Some((count, id, killed_us)) = undone(report) {
        told(body, count, "the same death", id, moments_of_undone(report, killed_us), report);
    }
    if let Some((count, id)) = slowest(report) {
        told(body, count, "late, not lost", id, moments_of_late(report, count, id), report);
    }
}

fn told(body: &mut String, count: &Count, title: &str, id: &str, mut moments: Vec<Moment>, report: &Report) {
    moments.sort_by_key(|(us, _, _)| *us);
    put(
        body,
        format_args!(
            "<div class=\"story {}\"><h3>{}: {title}</h3><p class=note>Order <code>{}</code></p><ol class=moments>",
            count.pattern.name(),
            count.pattern.title(),
            escape(id)
        ),
    );
    for (us, kind, text) in moments {
        let class = match kind {
            Kind::Plain => "",
            Kind::Bad => " class=bad",
            Kind::Good => " class=good",
        };
        let seconds = (us - report.began_us) as f64 / 1e6;
        put(body, format_args!("<li{class}><time>{seconds:.3} s</time> <span>{text}</span></li>"));
    }
    body.push_str("</ol></div>");
}

fn moments_of_lost(report: &Report, count: &Count, id: &str) -> Vec<Moment> {
    let committed = count.facts.committed_us.get(id).copied().unwrap_or(report.began_us);
    let mut moments = vec![
        (committed, Kind::Plain, "The order is committed. The customer can see it.".to_owned()),
        (
            end_us(report).max(committed),
            Kind::Bad,
            "At the end of the run the topic holds no event for it. Nobody reserves, nobody ships, and nothing that is alive \
             knows that there is anything to send."
                .to_owned(),
        ),
    ];
    moments.extend(asked(count, id));
    moments.extend(reason(report, count, id, committed, "before it could publish the event"));
    moments
}

fn moments_of_phantom(report: &Report, count: &Count, id: &str) -> Vec<Moment> {
    let published = count.facts.published_us.get(id).copied().unwrap_or(report.began_us);
    let mut moments = vec![
        (published, Kind::Plain, "The broker has stored the event.".to_owned()),
        (
            end_us(report).max(published),
            Kind::Bad,
            "At the end of the run the database holds no such order. Stock is reserved and a mail is sent for something that \
             cannot be looked up."
                .to_owned(),
        ),
    ];
    moments.extend(asked(count, id));
    moments.extend(delivered(count, id, "A consumer acts on it."));
    moments.extend(reason(report, count, id, published, "before it could write the order"));
    moments
}

fn moments_of_undone(report: &Report, killed_us: i64) -> Vec<Moment> {
    vec![
        (
            killed_us,
            Kind::Bad,
            "The service gets <code>kill -9</code> inside the transaction, at the same moment as the others.".into(),
        ),
        (
            end_us(report).max(killed_us),
            Kind::Good,
            "At the end of the run the database holds no such order and the topic no such event. The customer got no answer \
             and may ask again; nobody was told anything that is not so."
                .into(),
        ),
    ]
}

fn moments_of_late(report: &Report, count: &Count, id: &str) -> Vec<Moment> {
    let facts = &count.facts;
    let (Some(committed), Some(published)) = (facts.committed_us.get(id), facts.published_us.get(id)) else {
        return Vec::new();
    };
    let mut moments = vec![
        (*committed, Kind::Plain, "The transaction is committed, the event with it.".to_owned()),
        (*published, Kind::Plain, "The relay has published it: the broker has stored the event.".to_owned()),
    ];
    moments.extend(asked(count, id));
    moments.extend(cause(report, *committed).map(|fault| (fault.from_us, Kind::Bad, sentence(fault))));
    let took = facts.delivered_us.get(id).zip(facts.requested_us.get(id)).map_or(0, |(to, from)| to - from);
    moments.extend(delivered(
        count,
        id,
        &format!("The consumer has it, {} after the request.", time(took as f64 / 1000.0)),
    ));
    if let Some((_, kind, _)) = moments.last_mut() {
        *kind = Kind::Good;
    }
    moments
}

fn asked(count: &Count, id: &str) -> Option<Moment> {
    Some((*count.facts.requested_us.get(id)?, Kind::Plain, "A customer asks for it.".into()))
}

fn delivered(count: &Count, id: &str, text: &str) -> Option<Moment> {
    Some((*count.facts.delivered_us.get(id)?, Kind::Plain, text.to_owned()))
}

/// The kill at the weak point, or the fault that was at work.
fn reason(report: &Report, count: &Count, id: &str, us: i64, before: &str) -> Option<Moment> {
    match killed(report, count, id) {
        Some(us) => Some((us, Kind::Bad, format!("The service gets <code>kill -9</code>, {before}."))),
        None => cause(report, us).map(|fault| (fault.from_us, Kind::Bad, sentence(fault))),
    }
}

/// Best one whose service was killed at the weak point, and the first of those: that is the shortest story.
fn choose<'a>(report: &Report, count: &Count, ids: &'a [String]) -> Option<&'a String> {
    let mut points = report.points.iter().filter(|point| point.pattern == count.pattern);
    points.find_map(|point| ids.iter().find(|id| **id == point.id)).or_else(|| ids.first())
}

fn killed(report: &Report, count: &Count, id: &str) -> Option<i64> {
    let point = report.points.iter().find(|point| point.pattern == count.pattern && point.id == id)?;
    Some(point.killed_us)
}

/// An order of ours whose service was killed, and which left no trace.
fn undone(report: &Report) -> Option<(&Count, &str, i64)> {
    ours(report).find_map(|count| {
        let mut points = report.points.iter().filter(|point| point.pattern == count.pattern);
        let gone =
            |id: &String| !count.facts.committed_us.contains_key(id) && !count.facts.published_us.contains_key(id);
        let point = points.find(|point| gone(&point.id))?;
        Some((count, point.id.as_str(), point.killed_us))
    })
}

/// Of ours, the delivery that took longest.
fn slowest(report: &Report) -> Option<(&Count, &String)> {
    let took = |count: &Count, id: &String| {
        count.facts.delivered_us.get(id).zip(count.facts.requested_us.get(id)).map_or(0, |(to, from)| to - from)
    };
    let all = ours(report).flat_map(|count| count.facts.committed_us.keys().map(move |id| (count, id)));
    all.max_by_key(|(count, id)| took(count, id))
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

fn sentence(fault: &Happened) -> String {
    let mut characters = fault.fault.title().chars();
    let begun: String =
        characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default();
    let lasted = (fault.to_us - fault.from_us) as f64 / 1000.0;
    format!("{begun}, for {}.", time(lasted))
}
