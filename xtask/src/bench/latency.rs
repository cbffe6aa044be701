//! Latency: from just before the commit to the consumer, at a steady rate.

use super::Bench;
use crate::process::Measured;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A topic exchange and one queue behind it, both of the same name.
pub struct Queue {
    name: String,
    channel: Channel,
    _connection: Connection,
}

impl Queue {
    pub async fn declare(bench: &Bench, name: &str, kind: &str) -> Result<Self, String> {
        let text = |error: lapin::Error| error.to_string();
        let connection =
            Connection::connect(&bench.rabbit().url(), ConnectionProperties::default()).await.map_err(text)?;
        let channel = connection.create_channel().await.map_err(text)?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(name.into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .map_err(text)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.into(), durable, arguments).await.map_err(text)?;
        channel
            .queue_bind(name.into(), name.into(), "#".into(), QueueBindOptions::default(), FieldTable::default())
            .await
            .map_err(text)?;
        Ok(Queue { name: name.into(), channel, _connection: connection })
    }

    /// Ready messages, exact (passive declare).
    pub async fn count(&self) -> Result<u32, String> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare(self.name.as_str().into(), passive, FieldTable::default()).await;
        queue.map(|queue| queue.message_count()).map_err(|error| error.to_string())
    }

    pub async fn delete(&self) -> Result<(), String> {
        let name = self.name.as_str();
        self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.map_err(|e| e.to_string())?;
        let deleted = self.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await;
        deleted.map_err(|error| error.to_string())
    }
}

/// An outbox with a slot, and the configuration of a relay to `sink`; its directory lives as long as what is returned.
pub async fn prepare(
    bench: &Bench,
    name: &str,
    sink: &str,
) -> Result<(tokio_postgres::Client, PathBuf, TempDir), String> {
    let database = bench.pg.database("latency").await;
    let client = bench.pg.client(&database).await;
    let slot = testbed::unique("latency").replace('-', "_");
    for sql in [
        "create table outbox (id bigserial primary key, aggregatetype text not null, aggregateid text not null, \
         type text not null, payload jsonb); create publication pub for table outbox with (publish = 'insert')",
        &format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"),
    ] {
        client.batch_execute(sql).await.map_err(|error| error.to_string())?;
    }
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config = bench.config(directory.path(), &database, &slot, name, sink);
    Ok((client, config, directory))
}

pub async fn run(bench: &Bench, kind: &str, rate: u32, seconds: u32) -> Result<(), String> {
    let name = testbed::unique("latency");
    let queue = Queue::declare(bench, &name, kind).await?;
    let (client, config, _directory) = prepare(bench, &name, &bench.rabbit_sink(&name)).await?;
    let process = Measured::spawn(
        Command::new(&bench.programs.tailwater).args(["run", "--log-level", "error", "--config"]).arg(&config),
    )?;
    let consume = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = queue
        .channel
        .basic_consume(name.as_str().into(), "bench".into(), consume, FieldTable::default())
        .await
        .map_err(|error| error.to_string())?;
    let total = u64::from(rate) * u64::from(seconds);
    let writer = tokio::spawn(write(client, rate, total));
    let mut histogram = histogram();
    while histogram.len() < total {
        let Some(Ok(delivery)) = consumer.next().await else { return Err("the consumer's channel closed".into()) };
        record(&mut histogram, &delivery.data)?;
    }
    let late = writer.await.map_err(|error| error.to_string())??;
    report(&histogram, &process, late, &format!("{rate} tx/s for {seconds} s, {kind} queue"));
    drop(process);
    queue.delete().await
}

pub fn histogram() -> Histogram<u64> {
    // with bounds: one that grows by itself clips what `saturating_record` gives it
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("1 µs to 1 min in 3 digits")
}

/// Enters how long ago the event was written.
pub fn record(histogram: &mut Histogram<u64>, body: &[u8]) -> Result<(), String> {
    let body: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let sent_us = body["at_us"].as_u64().ok_or("a message without at_us")?;
    histogram.saturating_record(now_us().saturating_sub(sent_us));
    Ok(())
}

pub fn quantiles(histogram: &Histogram<u64>) -> String {
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms", ms(0.5), ms(0.99), histogram.max() as f64 / 1000.0)
}

pub fn report(histogram: &Histogram<u64>, process: &Measured, late: Duration, what: &str) {
    println!("\ncommit → consumer at {what} (insert statement to delivery)");
    println!(
        "{}; relay {:.0} µs CPU per event, peak {:.1} MiB; writer at most {late:?} late",
        quantiles(histogram),
        process.cpu_seconds() * 1e6 / histogram.len() as f64,
        process.peak_mib(),
    );
}

/// Writes at a steady rate; returns how late the writer itself was at worst.
pub async fn write(client: tokio_postgres::Client, rate: u32, total: u64) -> Result<Duration, String> {
    let insert = client
        .prepare(
            "insert into outbox (aggregatetype, aggregateid, type, payload) \
             values ('bench', $1, 'Benched', json_build_object('at_us', $2::bigint)::jsonb)",
        )
        .await
        .map_err(|error| error.to_string())?;
    let started = Instant::now();
    let mut late = Duration::ZERO;
    for n in 0..total {
        let due = started + Duration::from_secs_f64(n as f64 / f64::from(rate));
        match due.checked_duration_since(Instant::now()) {
            Some(wait) if wait > Duration::from_millis(1) => tokio::time::sleep(wait).await,
            Some(_) => tokio::task::yield_now().await,
            None => late = late.max(due.elapsed()),
        }
        let key = format!("k{}", n % 100);
        client.execute(&insert, &[&key, &(now_us() as i64)]).await.map_err(|error| error.to_string())?;
    }
    Ok(late)
}

pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}
