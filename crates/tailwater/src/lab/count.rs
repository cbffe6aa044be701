//! The end of a run, counted from what databases, topics and consumers hold. No pattern is asked what it did.

use super::LabError;
use super::load::Load;
use super::pattern::Pattern;
use super::world::World;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One pattern's result. Sets and lists are for the page; numbers are what is compared.
#[derive(Debug, Serialize)]
pub struct Count {
    pub pattern: Pattern,
    /// Orders that the database holds (in "listen to yourself": events).
    pub committed: usize,
    /// Distinct events that the topic holds.
    pub published: usize,
    /// Published, and nothing was committed.
    pub phantom: usize,
    /// Committed, and never published.
    pub lost: usize,
    /// Orders that "listen to yourself" owes its readers still; 0 elsewhere.
    pub not_applied: usize,
    /// Deliveries beyond the first of each event, before the inbox.
    pub duplicates_before: usize,
    /// Effects beyond the first of each event, behind the inbox.
    pub duplicates_after: usize,
    /// Committed, and without effect at the consumer.
    pub without_effect: usize,
    pub latency: Latency,
    pub load: Load,
    #[serde(skip)]
    pub facts: Facts,
}

/// From the request to the first delivery, ms.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What the page shows more of. Moments in µs since 1970, by order.
#[derive(Debug, Default)]
pub struct Facts {
    /// When it was asked for, of those that were committed or delivered.
    pub requested_us: BTreeMap<String, i64>,
    /// When the order was committed.
    pub committed_us: BTreeMap<String, i64>,
    /// When the broker took its event.
    pub published_us: BTreeMap<String, i64>,
    /// When the consumer saw it first.
    pub delivered_us: BTreeMap<String, i64>,
    pub lost: Vec<String>,
    pub phantom: Vec<String>,
}

impl Facts {
    /// (when requested, latency) of each first delivery, µs.
    pub fn deliveries(&self) -> impl Iterator<Item = (i64, i64)> {
        self.delivered_us.iter().filter_map(|(id, delivered)| {
            let requested = self.requested_us.get(id)?;
            Some((*requested, delivered - requested))
        })
    }
}

/// What is there at the end, as it was read. Ids, and moments in µs since 1970.
#[derive(Debug, Default)]
struct Held {
    /// Orders (in "listen to yourself": events): id, asked for, committed.
    committed: Vec<(String, i64, i64)>,
    /// Orders in the table of orders.
    applied: BTreeSet<String>,
    /// Records of the topic: id, taken by the broker.
    published: Vec<(String, i64)>,
    /// Deliveries to the consumer, before the inbox: id, asked for, received.
    seen: Vec<(String, i64, i64)>,
    /// Effects of the consumer, behind the inbox.
    effects: Vec<String>,
}

/// Counts one pattern. What it cost is measured while it runs: see [`super::load`].
pub async fn count(world: &World, pattern: Pattern) -> Result<Count, LabError> {
    Ok(tally(pattern, held(world, pattern).await?))
}

async fn held(world: &World, pattern: Pattern) -> Result<Held, LabError> {
    let db = world.pg.client(pattern.name()).await;
    let consumer = world.pg.client(&format!("{}_consumer", pattern.name())).await;
    let moment = |column: &str| format!("(extract(epoch FROM {column}) * 1000000)::bigint");
    let (table, requested) = if pattern == Pattern::ListenToYourself {
        ("outbox", "(payload ->> 'requested_us')::bigint")
    } else {
        ("orders", "requested_us")
    };
    let three = |row: &tokio_postgres::Row| (row.get(0), row.get(1), row.get(2));
    let committed = format!("SELECT id::text, {requested}, {} FROM {table}", moment("created_at"));
    let seen = format!("SELECT id::text, requested_us, {} FROM seen ORDER BY nr", moment("received_at"));
    let mut published = Vec::new();
    for record in world.kafka.records(pattern.name()).await {
        let id = record.header("id").ok_or_else(|| LabError::Stuck("a record without an id".into()))?;
        published.push((id.to_owned(), record.timestamp_ms * 1000));
    }
    Ok(Held {
        committed: db.query(&committed, &[]).await?.iter().map(three).collect(),
        applied: column(&db, "SELECT id::text FROM orders").await?.into_iter().collect(),
        published,
        seen: consumer.query(&seen, &[]).await?.iter().map(three).collect(),
        effects: column(&consumer, "SELECT id::text FROM effect").await?,
    })
}

/// The same for all patterns: it is compared what is here and what is there. Pure.
fn tally(pattern: Pattern, held: Held) -> Count {
    let mut facts = Facts::default();
    for (id, requested, committed) in held.committed {
        facts.requested_us.insert(id.clone(), requested);
        facts.committed_us.insert(id, committed);
    }
    for (id, published) in held.published {
        facts.published_us.entry(id).or_insert(published);
    }
    let missing = |from: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>| -> Vec<String> {
        from.keys().filter(|id| !other.contains_key(*id)).cloned().collect()
    };
    facts.lost = missing(&facts.committed_us, &facts.published_us);
    facts.phantom = missing(&facts.published_us, &facts.committed_us);
    let deliveries = held.seen.len();
    for (id, requested, received) in held.seen {
        facts.requested_us.insert(id.clone(), requested);
        facts.delivered_us.entry(id).or_insert(received);
    }
    let distinct: BTreeSet<&String> = held.effects.iter().collect();
    Count {
        pattern,
        committed: facts.committed_us.len(),
        published: facts.published_us.len(),
        phantom: facts.phantom.len(),
        lost: facts.lost.len(),
        not_applied: facts.committed_us.keys().filter(|id| !held.applied.contains(*id)).count(),
        duplicates_before: deliveries - facts.delivered_us.len(),
        duplicates_after: held.effects.len() - distinct.len(),
        without_effect: facts.committed_us.keys().filter(|id| !distinct.contains(id)).count(),
        latency: latency(&facts),
        load: Load::default(),
        facts,
    }
}

async fn column(db: &tokio_postgres::Client, sql: &str) -> Result<Vec<String>, LabError> {
    Ok(db.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

fn latency(facts: &Facts) -> Latency {
    let mut sorted: Vec<i64> = facts.deliveries().map(|(_, latency)| latency).collect();
    sorted.sort_unstable();
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).map_or(0.0, |us| *us as f64 / 1000.0)
    };
    Latency { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
}

/// True when nothing more will come: what was committed by ours is published and has its effect, and the consumers have
/// read their topics to the end.
pub async fn settled(world: &World, pattern: Pattern) -> Result<bool, LabError> {
    let count = count(world, pattern).await?;
    let ours = !pattern.is_ours() || (count.lost == 0 && count.without_effect == 0 && count.not_applied == 0);
    Ok(ours && count.facts.delivered_us.len() == count.published)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a pattern promises: what is missing, invented or there twice is counted, in ours as in the others.
    #[test]
    fn every_pattern_is_counted_by_what_is_there() {
        let ids = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        for pattern in Pattern::ALL {
            let three = |ids: Vec<String>, at: i64| ids.into_iter().map(|id| (id, 1_000, at)).collect();
            let count = tally(
                pattern,
                Held {
                    committed: three(ids("a b c d e"), 2_000),
                    applied: ids("a b c d").into_iter().collect(),
                    published: ids("a a b c x").into_iter().map(|id| (id, 3_000)).collect(),
                    seen: three(ids("a a a b x"), 5_000),
                    effects: ids("a b b b b"),
                },
            );
            let numbers = [count.committed, count.published, count.lost, count.phantom, count.not_applied];
            assert_eq!(numbers, [5, 4, 2, 1, 1], "{pattern:?}");
            assert_eq!((count.duplicates_before, count.duplicates_after), (2, 3), "{pattern:?}");
            assert_eq!(count.without_effect, 3, "{pattern:?}");
            assert_eq!((count.facts.lost, count.facts.phantom), (ids("d e"), ids("x")), "{pattern:?}");
            assert_eq!(count.latency.max_ms, 4.0, "{pattern:?}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut facts = Facts::default();
        for number in 1..=100 {
            facts.requested_us.insert(number.to_string(), 7);
            facts.delivered_us.insert(number.to_string(), 7 + number * 1000);
        }
        let found = latency(&facts);
        assert_eq!((found.p50_ms, found.p99_ms, found.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(latency(&Facts::default()).p99_ms, 0.0);
    }
}
