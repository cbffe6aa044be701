//! Drain: how fast a backlog goes out, next to what server and broker can do at most.

use super::topic::Topic;
use super::{Bench, median};
use crate::process::Measured;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One way to drain, or a floor of it.
enum Way {
    Recvlogical,
    Stdout,
    /// Kind of queue; without a source before it.
    Queue {
        kind: String,
        bare: bool,
    },
    BareProducer,
    Kafka {
        exactly_once: bool,
    },
    /// In Kafka Connect; the time it takes to start is left out.
    Debezium,
}

impl Way {
    fn all(queues: &[String], kafka: bool, debezium: bool) -> Vec<Way> {
        let mut ways = vec![Way::Recvlogical, Way::Stdout];
        for kind in queues {
            ways.extend([true, false].map(|bare| Way::Queue { kind: kind.clone(), bare }));
        }
        if kafka {
            ways.extend([Way::BareProducer, Way::Kafka { exactly_once: false }, Way::Kafka { exactly_once: true }]);
        }
        if debezium {
            ways.push(Way::Debezium);
        }
        ways
    }

    fn name(&self) -> String {
        match self {
            Way::Recvlogical => "pg_recvlogical (floor)".into(),
            Way::Stdout => "tailwater → stdout".into(),
            Way::Queue { kind, bare: true } => format!("bare publisher → {kind} (floor)"),
            Way::Queue { kind, bare: false } => format!("tailwater → {kind}"),
            Way::BareProducer => "bare producer → Kafka (floor)".into(),
            Way::Kafka { exactly_once: false } => "tailwater → Kafka".into(),
            Way::Kafka { exactly_once: true } => "tailwater → Kafka, exactly once".into(),
            Way::Debezium => "Debezium in Connect → Kafka".into(),
        }
    }
}

/// What is drained.
struct Backlog<'a> {
    database: &'a str,
    rows: usize,
    /// Of the log behind the last row.
    end: &'a str,
}

/// One way, measured once.
struct Sample {
    per_second: f64,
    cpu_us: f64,
    peak_mib: f64,
}

pub async fn run(
    bench: &Bench,
    rows: usize,
    per_transaction: usize,
    rounds: usize,
    queues: &[String],
) -> Result<(), String> {
    let database = bench.pg.database("bench").await;
    let client = bench.pg.client(&database).await;
    let sql = |text: String| {
        let client = &client;
        async move { client.batch_execute(&text).await.map_err(|error| format!("{text}: {error:?}")) }
    };
    sql("create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, \
         aggregateid text not null, type text not null, payload jsonb); \
         create publication pub for table outbox with (publish = 'insert'); \
         set synchronous_commit = off"
        .into())
    .await?;
    let base = testbed::unique("base").replace('-', "_");
    sql(format!("select pg_create_logical_replication_slot('{base}', 'pgoutput')")).await?;
    eprintln!("write {rows} rows, {per_transaction} per transaction …");
    let filler = "x".repeat(220);
    sql(format!(
        "do $$ begin for i in 1..{transactions} loop \
           insert into outbox (aggregatetype, aggregateid, type, payload) \
           select 'bench', 'k' || (i % 1000), 'Benched', json_build_object('n', i, 'filler', '{filler}')::jsonb \
           from generate_series(1, {per_transaction}); commit; end loop; end $$",
        transactions = rows / per_transaction
    ))
    .await?;
    let end: String = client
        .query_one("select pg_current_wal_insert_lsn()::text", &[])
        .await
        .map_err(|error| error.to_string())?
        .get(0);

    println!("\ndrain of {rows} rows of about 300 bytes, {per_transaction} per transaction, {rounds} rounds, medians");
    println!("{:<34} {:>10} {:>12} {:>10}", "", "rows/s", "µs CPU/row", "peak MiB");
    let ways = Way::all(queues, bench.kafka.is_some(), bench.debezium.is_some());
    let backlog = Backlog { database: &database, rows, end: &end };
    let mut samples: Vec<Vec<Sample>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (index, way) in ways.iter().enumerate() {
            let slot = format!("{base}_{round}_{index}");
            sql(format!("select pg_copy_logical_replication_slot('{base}', '{slot}')")).await?;
            let sample = match way {
                Way::Recvlogical => recvlogical(bench, &backlog, &slot)?,
                Way::Stdout => to_stdout(bench, &backlog, &slot)?,
                Way::Queue { kind, bare } => to_queue(bench, &backlog, &slot, kind, *bare).await?,
                Way::BareProducer | Way::Kafka { .. } | Way::Debezium => to_kafka(bench, &backlog, &slot, way).await?,
            };
            samples[index].push(sample);
            drop_slot(&client, &slot).await?;
        }
    }
    drop_slot(&client, &base).await?;
    for (way, samples) in ways.iter().zip(&samples) {
        let name = way.name();
        let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
        println!("{name:<34} {:>10.0} {:>12.1} {:>10.1}", of(|s| s.per_second), of(|s| s.cpu_us), of(|s| s.peak_mib));
    }
    Ok(())
}

/// The program that held it was killed: the server may need a moment to notice.
async fn drop_slot(client: &tokio_postgres::Client, slot: &str) -> Result<(), String> {
    for _ in 0..100 {
        let sql = format!("select pg_drop_replication_slot('{slot}')");
        match client.batch_execute(&sql).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE) => {}
            Err(error) => return Err(format!("{sql}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("slot {slot} stays in use"))
}

fn sample(rows: usize, elapsed: Duration, cpu_seconds: f64, peak_mib: f64) -> Sample {
    Sample { per_second: rows as f64 / elapsed.as_secs_f64(), cpu_us: cpu_seconds * 1e6 / rows as f64, peak_mib }
}

fn recvlogical(bench: &Bench, backlog: &Backlog<'_>, slot: &str) -> Result<Sample, String> {
    let started = Instant::now();
    let mut process = Measured::spawn(
        Command::new(&bench.programs.pg_recvlogical)
            .args(["--start", "--no-loop", "--slot", slot, "--file", "/dev/null", "--endpos", backlog.end])
            .args(["-o", "proto_version=1", "-o", "publication_names=pub", "-d", &bench.pg.url(backlog.database)]),
    )?;
    let (mut cpu, mut peak) = (0.0, 0.0);
    while process.child().try_wait().map_err(|e| e.to_string())?.is_none() {
        cpu = process.cpu_seconds();
        peak = process.peak_mib();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(sample(backlog.rows, started.elapsed(), cpu, peak))
}

fn to_stdout(bench: &Bench, backlog: &Backlog<'_>, slot: &str) -> Result<Sample, String> {
    let rows = backlog.rows;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config =
        bench.config(directory.path(), backlog.database, slot, "bench", "[pipelines.bench.sink]\ntype = \"stdout\"\n");
    let started = Instant::now();
    let mut process = Measured::spawn(
        Command::new(&bench.programs.tailwater)
            .args(["run", "--log-level", "error", "--config"])
            .arg(&config)
            .stdout(Stdio::piped()),
    )?;
    let mut out = BufReader::with_capacity(1 << 20, process.child().stdout.take().expect("piped"));
    let mut seen = 0;
    while seen < rows {
        let chunk = out.fill_buf().map_err(|error| error.to_string())?;
        if chunk.is_empty() {
            return Err(format!("tailwater ended after {seen} of {rows} rows"));
        }
        seen += chunk.iter().filter(|byte| **byte == b'\n').count();
        let length = chunk.len();
        out.consume(length);
    }
    Ok(sample(rows, started.elapsed(), process.cpu_seconds(), process.peak_mib()))
}

async fn to_queue(bench: &Bench, backlog: &Backlog<'_>, slot: &str, kind: &str, bare: bool) -> Result<Sample, String> {
    let rows = backlog.rows;
    let name = testbed::unique("bench");
    let broker = super::latency::Queue::declare(bench, &name, kind).await?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command;
    if bare {
        command = Command::new(&bench.programs.bare_publisher);
        command.arg(&name).arg(rows.to_string()).env("BARE_PUBLISHER_URL", bench.rabbit().url());
    } else {
        let config = bench.config(directory.path(), backlog.database, slot, "bench", &bench.rabbit_sink(&name));
        command = Command::new(&bench.programs.tailwater);
        command.args(["run", "--log-level", "error", "--config"]).arg(&config);
    }
    let started = Instant::now();
    let mut process = Measured::spawn(&mut command)?;
    let (mut cpu, mut peak) = (0.0, 0.0);
    while (broker.count().await? as usize) < rows {
        if let Some(status) = process.child().try_wait().map_err(|e| e.to_string())?
            && (!bare || !status.success())
        {
            return Err(format!("{command:?} ended early: {status}"));
        }
        cpu = f64::max(cpu, process.cpu_seconds());
        peak = f64::max(peak, process.peak_mib());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let elapsed = started.elapsed();
    broker.delete().await?;
    Ok(sample(rows, elapsed, cpu, peak))
}

async fn to_kafka(bench: &Bench, backlog: &Backlog<'_>, slot: &str, way: &Way) -> Result<Sample, String> {
    let kafka = bench.kafka.as_ref().expect("started when it is measured");
    let topic = Topic::make(kafka, &testbed::unique("bench").replace('_', "-")).await?;
    let client = bench.pg.client(backlog.database).await;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command;
    match way {
        Way::Debezium => {
            let debezium = bench.debezium.as_ref().expect("fetched when it is measured");
            command = debezium.command(bench, directory.path(), backlog.database, slot, &topic.name)?;
        }
        Way::Kafka { exactly_once } => {
            let sink = bench.kafka_sink(*exactly_once);
            let config = bench.config(directory.path(), backlog.database, slot, &topic.name, &sink);
            command = Command::new(&bench.programs.tailwater);
            command.args(["run", "--log-level", "error", "--config"]).arg(&config);
        }
        _ => {
            command = Command::new(&bench.programs.bare_producer);
            command.arg(&topic.name).arg(backlog.rows.to_string()).env("BARE_PRODUCER_SERVERS", kafka.bootstrap());
        }
    }
    // markers of transactions count as records: there the slot says that all is committed
    let settled = format!(
        "select count(*) from pg_replication_slots where slot_name = '{slot}' and confirmed_flush_lsn >= '{}'",
        backlog.end
    );
    let mut started = Instant::now();
    let mut process = Measured::spawn(&mut command)?;
    while matches!(way, Way::Debezium) && topic.count()? == 0 {
        alive(&mut process, &command, way)?;
        started = Instant::now();
    }
    let (mut cpu, mut peak) = (0.0, 0.0);
    loop {
        let done = match way {
            Way::Kafka { exactly_once: true } => {
                client.query_one(&settled, &[]).await.map_err(|error| error.to_string())?.get::<_, i64>(0) == 1
            }
            _ => topic.count()? >= backlog.rows,
        };
        cpu = f64::max(cpu, process.cpu_seconds());
        peak = f64::max(peak, process.peak_mib());
        if done {
            return Ok(sample(backlog.rows, started.elapsed(), cpu, peak));
        }
        alive(&mut process, &command, way)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bare producer ends by itself when all is sent; everything else goes on until it is stopped.
fn alive(process: &mut Measured, command: &Command, way: &Way) -> Result<(), String> {
    match process.child().try_wait().map_err(|error| error.to_string())? {
        Some(status) if !matches!(way, Way::BareProducer) || !status.success() => {
            Err(format!("{command:?} ended early: {status}"))
        }
        _ => Ok(()),
    }
}
