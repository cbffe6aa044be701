//! What the patterns cost their databases: counters that PostgreSQL keeps of each database, and the CPU time that the
//! kernel keeps of each of its sessions. Read while the load runs, not while we count.

use super::LabError;
use super::pattern::Pattern;
use super::world::World;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testbed::Postgres;

/// How often sessions are looked at. One that ends in between takes its last moments with it.
const LOOK: Duration = Duration::from_millis(500);
/// PostgreSQL's sessions report what they did at most once a second.
const REPORTED: Duration = Duration::from_millis(1500);

/// What the pattern's database did per committed order: service, relay and all.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Load {
    pub transactions: f64,
    pub rows_written: f64,
    /// Blocks of 8 kB read from the cache or the disk.
    pub blocks: f64,
    /// CPU time of the database's sessions, the one that reads the log included.
    pub cpu_ms: f64,
}

impl Load {
    /// Transactions beyond the one that an order needs by itself.
    pub fn extra_transactions(&self) -> f64 {
        (self.transactions - 1.0).max(0.0)
    }

    /// Rows beyond the one that an order needs by itself.
    pub fn extra_rows(&self) -> f64 {
        (self.rows_written - 1.0).max(0.0)
    }

    /// From what was read in total.
    pub fn per(total: Total, orders: usize) -> Load {
        let per = |value: f64| value / orders.max(1) as f64;
        let [transactions, rows_written, blocks] = total.counters.map(per);
        Load { transactions, rows_written, blocks, cpu_ms: per(total.cpu_ms) }
    }
}

/// Of one database, from the beginning to the end of the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    counters: [f64; 3],
    cpu_ms: f64,
}

/// CPU time of a session, ns: when it was first seen, and last.
type Sessions = Arc<Mutex<BTreeMap<(String, i32), (u64, u64)>>>;

/// Reads while the load runs.
pub struct Meter {
    before: BTreeMap<String, [f64; 3]>,
    sessions: Sessions,
    task: tokio::task::JoinHandle<()>,
}

impl Meter {
    /// Begins: what happened before is not counted.
    pub async fn begin(world: &World) -> Result<Meter, LabError> {
        tokio::time::sleep(REPORTED).await;
        let before = counters(&world.pg).await?;
        let sessions = Sessions::default();
        look(&world.pg.client("postgres").await, &sessions, true).await?;
        let (seen, url) = (sessions.clone(), world.pg.url("postgres"));
        let task = tokio::spawn(async move {
            loop {
                // the database is restarted now and then
                let _ = keep_looking(&url, &seen).await;
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Meter { before, sessions, task })
    }

    /// Ends: what was done since, by pattern.
    pub async fn end(self, world: &World) -> Result<BTreeMap<Pattern, Total>, LabError> {
        tokio::time::sleep(REPORTED).await;
        self.task.abort();
        let after = counters(&world.pg).await?;
        let sessions = self.sessions.lock().expect("no panic while held");
        let mut totals = BTreeMap::new();
        for side in &world.sides {
            let name = side.pattern.name();
            let [before, after] = [&self.before, &after].map(|read| read.get(name).copied().unwrap_or_default());
            let of_it = sessions.iter().filter(|((database, _), _)| database == name);
            let ns: u64 = of_it.map(|(_, (first, last))| last.saturating_sub(*first)).sum();
            let counters = std::array::from_fn(|index| after[index] - before[index]);
            totals.insert(side.pattern, Total { counters, cpu_ms: ns as f64 / 1e6 });
        }
        Ok(totals)
    }
}

/// `pg_stat_database`: transactions, rows written, blocks.
async fn counters(pg: &Postgres) -> Result<BTreeMap<String, [f64; 3]>, LabError> {
    let sql = "SELECT datname::text, (xact_commit + xact_rollback)::float8, \
               (tup_inserted + tup_updated + tup_deleted)::float8, (blks_hit + blks_read)::float8 \
               FROM pg_stat_database WHERE datname IS NOT NULL";
    let rows = pg.client("postgres").await.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)])).collect())
}

async fn keep_looking(url: &str, sessions: &Sessions) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driven = tokio::spawn(connection);
    let outcome = async {
        loop {
            look(&client, sessions, false).await?;
            tokio::time::sleep(LOOK).await;
        }
    }
    .await;
    driven.abort();
    outcome
}

/// One look at all sessions. Those that are there at the beginning have done something already that is not counted.
async fn look(
    client: &tokio_postgres::Client,
    sessions: &Sessions,
    beginning: bool,
) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT datname::text, pid FROM pg_stat_activity WHERE datname IS NOT NULL";
    for row in client.query(sql, &[]).await? {
        let (database, pid): (String, i32) = (row.get(0), row.get(1));
        let Some(ns) = cpu_ns(pid) else { continue };
        let mut sessions = sessions.lock().expect("no panic while held");
        let first = if beginning { ns } else { 0 };
        sessions.entry((database, pid)).or_insert((first, ns)).1 = ns;
    }
    Ok(())
}

/// First field of `/proc/PID/schedstat`: ns on a CPU.
fn cpu_ns(pid: i32) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}
