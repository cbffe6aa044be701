//! Busy pipelines: a backlog drained by one, and the same number of rows by many at once, each from a database of its own.
//!
//! The server is part of it: many slots are read by as many server processes, and each reads the whole log. So the floor is
//! measured with as many `pg_recvlogical` at once.

use super::{Line, Scene, SinkKind};
use crate::process::Measured;
use std::process::Command;
use std::time::{Duration, Instant};

struct Sample {
    per_second: f64,
    cpu_us: f64,
    peak_mib: f64,
}

/// Databases with a backlog each.
struct Backlog {
    databases: Vec<String>,
    rows: usize,
    prefix: String,
    end: String,
}

pub async fn run(scene: &Scene, sinks: &[SinkKind], count: usize, rows: usize, rounds: usize) -> Result<(), String> {
    println!("\n{rows} rows of about 300 bytes, 10 a transaction; {rounds} rounds, medians");
    println!("{:<40} {:>10} {:>12} {:>10}", "", "rows/s", "µs CPU/row", "peak MiB");
    for pipelines in [1, count] {
        let backlog = Backlog::write(scene, pipelines, rows).await?;
        let mut floors = Vec::new();
        for round in 0..rounds {
            floors.push(backlog.floor(scene, round).await?);
        }
        line(&format!("{pipelines} × pg_recvlogical (floor)"), &floors);
        for sink in sinks {
            let mut samples = Vec::new();
            for round in 0..rounds {
                samples.push(backlog.drain(scene, *sink, round).await?);
            }
            line(&format!("{pipelines} × tailwater → {sink:?}"), &samples);
        }
        scene.drop_slots(&backlog.prefix).await?;
    }
    Ok(())
}

fn line(name: &str, samples: &[Sample]) {
    let of = |field: fn(&Sample) -> f64| crate::bench::median(samples.iter().map(field).collect());
    println!("{name:<40} {:>10.0} {:>12.1} {:>10.1}", of(|s| s.per_second), of(|s| s.cpu_us), of(|s| s.peak_mib));
}

impl Backlog {
    async fn write(scene: &Scene, pipelines: usize, rows: usize) -> Result<Backlog, String> {
        let prefix = testbed::unique("busy").replace('-', "_");
        let (mut databases, each) = (Vec::new(), rows / pipelines);
        for n in 0..pipelines {
            let database = scene.database().await?;
            scene
                .sql(&database, &format!("select pg_create_logical_replication_slot('{prefix}_{n}', 'pgoutput')"))
                .await?;
            databases.push(database);
        }
        for database in &databases {
            let filler = "x".repeat(220);
            let sql = format!(
                "do $$ begin for i in 1..{transactions} loop \
                   insert into outbox (aggregatetype, aggregateid, type, payload) \
                   select 'bench', 'k' || (i % 1000), 'Benched', json_build_object('n', i, 'filler', '{filler}')::jsonb \
                   from generate_series(1, 10); commit; end loop; end $$",
                transactions = each / 10
            );
            let client = scene.pg.client(database).await;
            for sql in ["set synchronous_commit = off", &sql] {
                client.batch_execute(sql).await.map_err(|error| format!("write the backlog: {error:?}"))?;
            }
        }
        let client = scene.pg.client("postgres").await;
        let end = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.map_err(|e| e.to_string())?;
        Ok(Backlog { databases, rows: each / 10 * 10 * pipelines, prefix, end: end.get(0) })
    }

    /// A slot for each database, at the beginning of its backlog.
    async fn slots(&self, scene: &Scene, round: &str) -> Result<Vec<String>, String> {
        let mut slots = Vec::new();
        for (n, database) in self.databases.iter().enumerate() {
            let slot = format!("{}_{round}_{n}", self.prefix);
            scene
                .sql(database, &format!("select pg_copy_logical_replication_slot('{}_{n}', '{slot}')", self.prefix))
                .await?;
            slots.push(slot);
        }
        Ok(slots)
    }

    fn sample(&self, elapsed: Duration, cpu_seconds: f64, peak_mib: f64) -> Sample {
        let rows = self.rows as f64;
        Sample { per_second: rows / elapsed.as_secs_f64(), cpu_us: cpu_seconds * 1e6 / rows, peak_mib }
    }

    async fn floor(&self, scene: &Scene, round: usize) -> Result<Sample, String> {
        let slots = self.slots(scene, &format!("f{round}")).await?;
        let started = Instant::now();
        let mut readers = Vec::new();
        for (slot, database) in slots.iter().zip(&self.databases) {
            let mut command = Command::new(testbed::postgres_program("pg_recvlogical"));
            command
                .args(["--start", "--no-loop", "--slot", slot, "--file", "/dev/null", "--endpos", &self.end])
                .args(["-o", "proto_version=1", "-o", "publication_names=pub", "-d", &scene.pg.url(database)]);
            readers.push((Measured::spawn(&mut command)?, 0.0, 0.0));
        }
        loop {
            let mut running = false;
            for (reader, cpu, peak) in &mut readers {
                if reader.child().try_wait().map_err(|error| error.to_string())?.is_none() {
                    running = true;
                    (*cpu, *peak) = (reader.cpu_seconds(), reader.peak_mib());
                }
            }
            if !running {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let elapsed = started.elapsed();
        let (cpu, peak) = readers.iter().fold((0.0, 0.0), |sum, (_, cpu, peak)| (sum.0 + cpu, sum.1 + peak));
        Ok(self.sample(elapsed, cpu, peak))
    }

    /// Until every slot has confirmed its backlog: all of it is durable at the broker.
    async fn drain(&self, scene: &Scene, sink: SinkKind, round: usize) -> Result<Sample, String> {
        let round = format!("{}{round}", if sink == SinkKind::Kafka { "k" } else { "d" });
        let round = if sink == SinkKind::Stdout { format!("s{round}") } else { round };
        let slots = self.slots(scene, &round).await?;
        let destination = scene.destination(sink).await;
        let named = slots.iter().zip(&self.databases).enumerate();
        let lines: Vec<Line> =
            named.map(|(n, (slot, database))| Line { name: format!("p{n}"), database, slot: slot.clone() }).collect();
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let config = scene.config(directory.path(), sink, &destination, &lines);
        let client = scene.pg.client("postgres").await;
        let settled = format!(
            "select count(*) from pg_replication_slots where slot_name like '{}_{round}_%' \
             and confirmed_flush_lsn >= '{}'",
            self.prefix, self.end
        );
        let started = Instant::now();
        let mut process = scene.start(&config)?;
        loop {
            let row = client.query_one(&settled, &[]).await.map_err(|error| format!("{settled}: {error:?}"))?;
            if row.get::<_, i64>(0) == slots.len() as i64 {
                break;
            }
            if let Some(status) = process.child().try_wait().map_err(|error| error.to_string())? {
                return Err(format!("tailwater ended early: {status}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sample = self.sample(started.elapsed(), process.cpu_seconds(), process.peak_mib());
        drop(process);
        scene.forget(sink, &destination).await;
        scene.drop_slots(&format!("{}_{round}_", self.prefix)).await?;
        Ok(sample)
    }
}
