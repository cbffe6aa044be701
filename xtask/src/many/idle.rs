//! Idle pipelines: what they cost while nothing happens, and whether all of them wake up.

use super::{Line, Scene, SinkKind};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

pub async fn run(scene: &Scene, sink: SinkKind, count: usize, watch: Duration) -> Result<(), String> {
    let database = scene.database().await?;
    let destination = scene.destination(sink).await;
    let prefix = testbed::unique("idle").replace('-', "_");
    let slots = format!(
        "select count(pg_create_logical_replication_slot('{prefix}_' || n, 'pgoutput')) from generate_series(1, {count}) n"
    );
    scene.number(&database, &slots).await?;
    let line = |n| Line { name: format!("p{n}"), database: &database, slot: format!("{prefix}_{n}") };
    let lines: Vec<Line> = (1..=count).map(line).collect();
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config = scene.config(directory.path(), sink, &destination, &lines);
    let started = Instant::now();
    let process = scene.start(&config)?;
    let active = format!("select count(*) from pg_replication_slots where slot_name like '{prefix}%' and active");
    until(scene, &active, count).await?;
    // one event for each of them: connections to the broker are open, everything was used once
    publish_and_settle(scene, &database, &prefix, count).await?;
    let up = started.elapsed();
    let cpu_before = process.cpu_seconds();
    tokio::time::sleep(watch).await;
    let cpu = (process.cpu_seconds() - cpu_before) / watch.as_secs_f64();
    let (now, peak, threads) = (process.resident_mib(), process.peak_mib(), process.threads());
    let again = Instant::now();
    publish_and_settle(scene, &database, &prefix, count).await?;
    println!(
        "{count} idle pipelines → {sink:?}: {now:.1} MiB resident (peak {peak:.1}), {threads} threads, {:.1} % of a core; \
         up and one event each after {:.1} s, the next event through all of them within {:.2} s",
        cpu * 100.0,
        up.as_secs_f64(),
        again.elapsed().as_secs_f64(),
    );
    drop(process);
    scene.forget(sink, &destination).await;
    scene.drop_slots(&prefix).await
}

/// One row, and every slot has confirmed it.
async fn publish_and_settle(scene: &Scene, database: &str, prefix: &str, count: usize) -> Result<(), String> {
    let insert = "insert into outbox (aggregatetype, aggregateid, type, payload) values ('a', 'k', 't', '{}')";
    scene.sql(database, insert).await?;
    let end = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let end = scene.number(database, end).await?;
    let settled = format!(
        "select count(*) from pg_replication_slots where slot_name like '{prefix}%' \
         and confirmed_flush_lsn - '0/0' >= {end}"
    );
    until(scene, &settled, count).await
}

async fn until(scene: &Scene, sql: &str, count: usize) -> Result<(), String> {
    let started = Instant::now();
    let client = scene.pg.client("postgres").await;
    let mut last = 0;
    while started.elapsed() < LIMIT {
        let row = client.query_one(sql, &[]).await.map_err(|error| format!("{sql}: {error:?}"))?;
        last = row.get::<_, i64>(0);
        if last == count as i64 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("{last} of {count} after {LIMIT:?}: {sql}"))
}
