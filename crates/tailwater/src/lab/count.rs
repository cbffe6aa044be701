//! The end of a run, counted from what databases, topics and consumers hold. No pattern is asked what it did.

use super::LabError;
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

/// What the pattern's database did, per committed order: service, relay and all.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Load {
    pub transactions: f64,
    pub rows_written: f64,
    /// Blocks of 8 kB read from the cache or the disk.
    pub blocks: f64,
}

/// What the page shows more of.
#[derive(Debug, Default)]
pub struct Facts {
    /// Of the order, µs since 1970: when it was committed.
    pub committed_us: BTreeMap<String, i64>,
    /// Of the event: when the broker took it.
    pub published_us: BTreeMap<String, i64>,
    pub lost: Vec<String>,
    pub phantom: Vec<String>,
    /// (when requested µs, latency µs) of each first delivery.
    pub deliveries: Vec<(i64, i64)>,
}

/// Counts one pattern.
pub async fn count(world: &World, pattern: Pattern) -> Result<Count, LabError> {
    let db = world.pg.client(pattern.name()).await;
    let consumer = world.pg.client(&format!("{}_consumer", pattern.name())).await;
    let table = if pattern == Pattern::ListenToYourself { "outbox" } else { "orders" };
    let at = "(extract(epoch FROM created_at) * 1000000)::bigint";
    let rows = db.query(&format!("SELECT id::text, {at} FROM {table}"), &[]).await?;
    let committed_us: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let applied: i64 = db.query_one("SELECT count(*) FROM orders", &[]).await?.get(0);

    let records = world.kafka.records(pattern.name()).await;
    let mut published_us = BTreeMap::new();
    for record in &records {
        let id = record.header("id").ok_or_else(|| LabError::Stuck("a record without an id".into()))?;
        published_us.entry(id.to_owned()).or_insert(record.timestamp_ms * 1000);
    }
    let missing = |from: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>| -> Vec<String> {
        from.keys().filter(|id| !other.contains_key(*id)).cloned().collect()
    };
    let (lost, phantom) = (missing(&committed_us, &published_us), missing(&published_us, &committed_us));

    let sql =
        "SELECT id::text, requested_us, (extract(epoch FROM received_at) * 1000000)::bigint FROM seen ORDER BY nr";
    let seen = consumer.query(sql, &[]).await?;
    let mut first = BTreeMap::new();
    for row in &seen {
        first.entry(row.get::<_, String>(0)).or_insert((row.get::<_, i64>(1), row.get::<_, i64>(2)));
    }
    let deliveries: Vec<(i64, i64)> =
        first.values().map(|(requested, received)| (*requested, received - requested)).collect();
    let effects = consumer.query("SELECT id::text FROM effect", &[]).await?;
    let distinct: BTreeSet<String> = effects.iter().map(|row| row.get(0)).collect();
    let without_effect = committed_us.keys().filter(|id| !distinct.contains(*id)).count();
    Ok(Count {
        pattern,
        committed: committed_us.len(),
        published: published_us.len(),
        phantom: phantom.len(),
        lost: lost.len(),
        not_applied: committed_us.len().saturating_sub(usize::try_from(applied).unwrap_or_default()),
        duplicates_before: seen.len() - first.len(),
        duplicates_after: effects.len() - distinct.len(),
        without_effect,
        latency: latency(&deliveries),
        load: load(world, pattern, committed_us.len()).await?,
        facts: Facts { committed_us, published_us, lost, phantom, deliveries },
    })
}

fn latency(deliveries: &[(i64, i64)]) -> Latency {
    let mut sorted: Vec<i64> = deliveries.iter().map(|(_, latency)| *latency).collect();
    sorted.sort_unstable();
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).map_or(0.0, |us| *us as f64 / 1000.0)
    };
    Latency { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
}

/// From the statistics that PostgreSQL keeps of each database (`pg_stat_database`).
async fn load(world: &World, pattern: Pattern, orders: usize) -> Result<Load, LabError> {
    let sql = "SELECT (xact_commit + xact_rollback)::float8, (tup_inserted + tup_updated + tup_deleted)::float8, \
               (blks_hit + blks_read)::float8 FROM pg_stat_database WHERE datname = $1";
    let row = world.pg.client("postgres").await.query_one(sql, &[&pattern.name()]).await?;
    let per = |index: usize| row.get::<_, f64>(index) / orders.max(1) as f64;
    Ok(Load { transactions: per(0), rows_written: per(1), blocks: per(2) })
}

/// True when nothing more will come: what was committed by ours is published and has its effect, and the consumers have
/// read their topics to the end.
pub async fn settled(world: &World, pattern: Pattern) -> Result<bool, LabError> {
    let count = count(world, pattern).await?;
    let ours = !pattern.is_ours() || (count.lost == 0 && count.without_effect == 0 && count.not_applied == 0);
    Ok(ours && count.facts.deliveries.len() == count.published)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let deliveries: Vec<(i64, i64)> = (1..=100).map(|n| (0, n * 1000)).collect();
        let latency = latency(&deliveries);
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(super::latency(&[]).p99_ms, 0.0);
    }
}
