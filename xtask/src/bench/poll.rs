//! Polling next to the log: how fast, how soon, and the load that each puts on the database. The sink is a null one (lines
//! on standard output that nobody keeps), so that the source is what is measured.

use super::latency::{now_us, write};
use super::{Bench, median};
use crate::process::{Measured, cpu_seconds};
use hdrhistogram::Histogram;
use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How rows are read, and what becomes of them.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Log,
    PollDelete,
    PollMark,
}

const WAYS: [(Way, &str); 3] =
    [(Way::Log, "log"), (Way::PollDelete, "polling, rows deleted"), (Way::PollMark, "polling, rows marked")];

/// One drain.
struct Sample {
    out_per_second: f64,
    done_per_second: f64,
    relay_us: f64,
    backend_us: f64,
    wal_bytes: f64,
    buffers: f64,
}

pub async fn run(bench: &Bench, rows: usize, rounds: usize, rate: u32, seconds: u32) -> Result<(), String> {
    println!(
        "\ndrain of {rows} rows of about 300 bytes into a null sink, 100 per transaction, {rounds} rounds, medians"
    );
    println!(
        "{:<24} {:>10} {:>10} {:>14} {:>16} {:>10} {:>12}",
        "", "rows/s out", "and done", "relay µs/row", "database µs/row", "WAL B/row", "buffers/row"
    );
    let mut samples: Vec<Vec<Sample>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (index, (way, _)) in WAYS.iter().enumerate() {
            samples[index].push(drain(bench, *way, rows).await?);
        }
    }
    for ((_, name), samples) in WAYS.iter().zip(&samples) {
        let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
        println!(
            "{name:<24} {:>10.0} {:>10.0} {:>14.1} {:>16.1} {:>10.0} {:>12.1}",
            of(|s| s.out_per_second),
            of(|s| s.done_per_second),
            of(|s| s.relay_us),
            of(|s| s.backend_us),
            of(|s| s.wal_bytes),
            of(|s| s.buffers)
        );
    }
    if seconds > 0 {
        println!("\ninsert → line at {rate} tx/s for {seconds} s (polling: trigger with NOTIFY)");
        for (way, name) in WAYS {
            latency(bench, way, name, rate, seconds).await?;
        }
    }
    Ok(())
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// A database with the outbox that this way needs, and its client.
async fn database(bench: &Bench, way: Way) -> Result<(String, Client), String> {
    let name = bench.pg.database("polling").await;
    let client = bench.pg.client(&name).await;
    let table = "create table outbox (seq bigint generated always as identity unique, id uuid not null default \
         gen_random_uuid(), aggregatetype text not null, aggregateid text not null, type text not null, payload jsonb, \
         published_at timestamptz)";
    let slot = format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')");
    let more: &[&str] = match way {
        Way::Log => &["create publication pub for table outbox with (publish = 'insert')", &slot],
        Way::PollDelete => &[],
        Way::PollMark => &["create index on outbox (seq) where published_at is null"],
    };
    client.batch_execute(table).await.map_err(text)?;
    for statement in more {
        client.batch_execute(statement).await.map_err(text)?;
    }
    Ok((name, client))
}

fn start(
    bench: &Bench,
    way: Way,
    database: &str,
    directory: &std::path::Path,
) -> Result<(Measured, BufReader<ChildStdout>), String> {
    let config =
        bench.config(directory, database, database, "${routedByValue}", "[pipelines.bench.sink]\ntype = \"stdout\"\n");
    if way != Way::Log {
        let done = if way == Way::PollMark { "done = \"mark\"\nmark_column = \"published_at\"\n" } else { "" };
        let polling = std::fs::read_to_string(&config)
            .map_err(text)?
            .replace("type = \"postgres\"", &format!("type = \"postgres-poll\"\n{done}"))
            .replace(&format!("slot = \"{database}\"\npublication = \"pub\"\n"), "");
        std::fs::write(&config, polling).map_err(text)?;
    }
    let mut command = Command::new(&bench.programs.tailwater);
    command.args(["run", "--log-level", "error", "--config"]).arg(&config).stdout(Stdio::piped());
    let mut process = Measured::spawn(&mut command)?;
    let out = process.child().stdout.take().expect("piped");
    Ok((process, BufReader::with_capacity(1 << 20, out)))
}

async fn drain(bench: &Bench, way: Way, rows: usize) -> Result<Sample, String> {
    let (database, client) = database(bench, way).await?;
    let filler = "x".repeat(220);
    let fill = format!(
        "do $$ begin for i in 1..{} loop \
           insert into outbox (aggregatetype, aggregateid, type, payload) \
           select 'bench', 'k' || (i % 1000), 'Benched', json_build_object('n', i, 'filler', '{filler}')::jsonb \
           from generate_series(1, 100); commit; end loop; end $$",
        rows / 100
    );
    for statement in ["set synchronous_commit = off", &fill, "vacuum analyze outbox", "checkpoint"] {
        client.batch_execute(statement).await.map_err(|error| format!("{statement}: {error:?}"))?;
    }
    drop(client);
    let watch = bench.pg.client("postgres").await;
    let in_database = bench.pg.client(&database).await;
    let (wal, buffers) = (wal(&watch).await?, buffers(&watch, &database).await?);
    let directory = tempfile::tempdir().map_err(text)?;
    let started = Instant::now();
    let (process, mut out) = start(bench, way, &database, directory.path())?;
    let mut seen = 0;
    while seen < rows {
        let chunk = out.fill_buf().map_err(text)?;
        if chunk.is_empty() {
            return Err(format!("tailwater ended after {seen} of {rows} rows"));
        }
        seen += chunk.iter().filter(|byte| **byte == b'\n').count();
        let length = chunk.len();
        out.consume(length);
    }
    let out_in = started.elapsed();
    let left = "select exists (select from outbox where published_at is null)";
    while way != Way::Log && in_database.query_one(left, &[]).await.map_err(text)?.get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done_in = started.elapsed();
    let relay = process.cpu_seconds();
    let sessions = "select pid from pg_stat_activity where application_name = 'tailwater' and datname = $1";
    let sessions = watch.query(sessions, &[&database]).await.map_err(text)?;
    let backends: f64 = sessions.iter().map(|row| cpu_seconds(row.get::<_, i32>(0).unsigned_abs())).sum();
    let wal = wal_since(&watch, wal).await?;
    // sessions tell their numbers when they end
    drop((process, in_database));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let buffers = buffers_since(&watch, &database, buffers).await?;
    if way == Way::Log {
        let _ = watch.batch_execute(&format!("select pg_drop_replication_slot('{database}')")).await;
    }
    let each = |value: f64| value / rows as f64;
    Ok(Sample {
        out_per_second: rows as f64 / out_in.as_secs_f64(),
        done_per_second: rows as f64 / done_in.as_secs_f64(),
        relay_us: each(relay * 1e6),
        backend_us: each(backends * 1e6),
        wal_bytes: each(wal),
        buffers: each(buffers),
    })
}

async fn wal(client: &Client) -> Result<i64, String> {
    let row = client.query_one("select (pg_current_wal_insert_lsn() - '0/0')::int8", &[]).await;
    row.map(|row| row.get(0)).map_err(text)
}

async fn wal_since(client: &Client, before: i64) -> Result<f64, String> {
    Ok((wal(client).await? - before) as f64)
}

async fn buffers(client: &Client, database: &str) -> Result<i64, String> {
    let sql = "select blks_hit + blks_read from pg_stat_database where datname = $1";
    client.query_one(sql, &[&database]).await.map(|row| row.get(0)).map_err(text)
}

async fn buffers_since(client: &Client, database: &str, before: i64) -> Result<f64, String> {
    Ok((buffers(client, database).await? - before) as f64)
}

async fn latency(bench: &Bench, way: Way, name: &str, rate: u32, seconds: u32) -> Result<(), String> {
    let (database, client) = database(bench, way).await?;
    if way != Way::Log {
        let trigger = "create function ring() returns trigger language plpgsql as $$ begin \
             perform pg_notify('tailwater_outbox', ''); return null; end $$; \
             create trigger ring after insert on outbox for each statement execute function ring()";
        client.batch_execute(trigger).await.map_err(text)?;
    }
    let watch = bench.pg.client("postgres").await;
    let directory = tempfile::tempdir().map_err(text)?;
    let (process, mut out) = start(bench, way, &database, directory.path())?;
    let total = u64::from(rate) * u64::from(seconds);
    let reader = tokio::task::spawn_blocking(move || {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("3 digits");
        let mut line = String::new();
        while histogram.len() < total {
            line.clear();
            if out.read_line(&mut line).map_err(text)? == 0 {
                return Err("tailwater ended".to_owned());
            }
            let value: serde_json::Value = serde_json::from_str(&line).map_err(text)?;
            let sent_us = value["payload"]["at_us"].as_u64().ok_or("a line without at_us")?;
            histogram.saturating_record(now_us().saturating_sub(sent_us));
        }
        Ok(histogram)
    });
    let late = write(client, rate, total).await?;
    let histogram = reader.await.map_err(text)??;
    let sessions = "select pid from pg_stat_activity where application_name = 'tailwater' and datname = $1";
    let sessions = watch.query(sessions, &[&database]).await.map_err(text)?;
    let backends: f64 = sessions.iter().map(|row| cpu_seconds(row.get::<_, i32>(0).unsigned_abs())).sum();
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{name:<24} p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms; relay {:.0} µs, database {:.0} µs of CPU per event; writer at most {late:?} late",
        ms(0.5),
        ms(0.99),
        histogram.max() as f64 / 1000.0,
        process.cpu_seconds() * 1e6 / total as f64,
        backends * 1e6 / total as f64,
    );
    drop(process);
    if way == Way::Log {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ = watch.batch_execute(&format!("select pg_drop_replication_slot('{database}')")).await;
    }
    Ok(())
}
