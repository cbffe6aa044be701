//! Kafka in the benchmark: a topic per drain, how much lies in it, and the latency at a steady rate.

use super::{Bench, latency};
use crate::process::Measured;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::Offset;
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::Kafka;

const PARTITIONS: i32 = 4;
const LIMIT: Duration = Duration::from_secs(10);

/// A topic, and a consumer that knows its ends.
pub struct Topic {
    pub name: String,
    consumer: BaseConsumer,
}

impl Topic {
    pub async fn make(kafka: &Kafka, name: &str) -> Result<Topic, String> {
        kafka.create_topic(name, PARTITIONS, &[]).await;
        let mut config = kafka.client();
        config.set("group.id", "bench").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().map_err(|error| error.to_string())?;
        let mut places = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            places.add_partition_offset(name, partition, Offset::Beginning).map_err(|error| error.to_string())?;
        }
        consumer.assign(&places).map_err(|error| error.to_string())?;
        consumer.pause(&places).map_err(|error| error.to_string())?;
        Ok(Topic { name: name.into(), consumer })
    }

    /// Records in it; in a topic of transactions their markers count too.
    pub fn count(&self) -> Result<usize, String> {
        let end = |partition| self.consumer.fetch_watermarks(&self.name, partition, LIMIT).map(|(_, high)| high);
        let ends: Result<Vec<i64>, _> = (0..PARTITIONS).map(end).collect();
        ends.map(|ends| ends.iter().sum::<i64>() as usize).map_err(|error| error.to_string())
    }

    fn read(&self) -> Result<(), String> {
        let places = self.consumer.assignment().map_err(|error| error.to_string())?;
        self.consumer.resume(&places).map_err(|error| error.to_string())
    }
}

impl Bench {
    pub fn kafka_sink(&self, exactly_once: bool) -> String {
        let servers = self.kafka.as_ref().expect("started when it is measured").bootstrap();
        // each run is a pipeline of its own: it has no position yet
        let positions = testbed::unique("positions").replace('_', "-");
        format!(
            "[pipelines.bench.sink]\ntype = \"kafka\"\nbootstrap_servers = [\"{servers}\"]\n\
             exactly_once = {exactly_once}\noffsets_topic = \"{positions}\"\n"
        )
    }
}

/// From just before the insert statement to the consumer.
pub async fn latency(bench: &Bench, rate: u32, seconds: u32, exactly_once: bool) -> Result<(), String> {
    let kafka = bench.kafka.as_ref().expect("started when it is measured");
    let name = testbed::unique("latency").replace('_', "-");
    let topic = Topic::make(kafka, &name).await?;
    let (client, config, _directory) = latency::prepare(bench, &name, &bench.kafka_sink(exactly_once)).await?;
    let process = Measured::spawn(
        Command::new(&bench.programs.tailwater).args(["run", "--log-level", "error", "--config"]).arg(&config),
    )?;
    let total = u64::from(rate) * u64::from(seconds);
    topic.read()?;
    let writer = tokio::spawn(latency::write(client, rate, total));
    let histogram =
        tokio::task::spawn_blocking(move || read(&topic, total)).await.map_err(|error| error.to_string())??;
    let late = writer.await.map_err(|error| error.to_string())??;
    let sink = if exactly_once { "Kafka, exactly once" } else { "Kafka" };
    latency::report(&histogram, &process, late, &format!("{rate} tx/s for {seconds} s, {sink}"));
    Ok(())
}

/// From a bare producer, as safe as the relay's and in this process, to the consumer: what the broker itself takes. `None`: to
/// warm the broker's Java machine, without a report.
pub async fn floor(bench: &Bench, rate: u32, seconds: u32, report: Option<&str>) -> Result<(), String> {
    let kafka = bench.kafka.as_ref().expect("started when it is measured");
    let name = testbed::unique("floor").replace('_', "-");
    let topic = Topic::make(kafka, &name).await?;
    let mut config = kafka.client();
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "0");
    let total = u64::from(rate) * u64::from(seconds);
    topic.read()?;
    let producing = tokio::task::spawn_blocking(move || produce(&config.create()?, &name, rate, total));
    let histogram =
        tokio::task::spawn_blocking(move || read(&topic, total)).await.map_err(|error| error.to_string())??;
    let late = producing.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if let Some(what) = report {
        println!("\nsend → consumer at {rate} records/s for {seconds} s, {what}");
        println!("{}; producer at most {late:?} late", latency::quantiles(&histogram));
    }
    Ok(())
}

/// Sends at a steady rate; returns how late the producer itself was at worst.
fn produce(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    rate: u32,
    total: u64,
) -> Result<Duration, rdkafka::error::KafkaError> {
    let (started, mut late) = (Instant::now(), Duration::ZERO);
    for n in 0..total {
        let due = started + Duration::from_secs_f64(n as f64 / f64::from(rate));
        match due.checked_duration_since(Instant::now()) {
            Some(wait) => std::thread::sleep(wait),
            None => late = late.max(due.elapsed()),
        }
        let (key, body) = (format!("k{}", n % 100), format!("{{\"at_us\": {}}}", latency::now_us()));
        producer.send(BaseRecord::to(topic).key(&key).payload(&body)).map_err(|(error, _)| error)?;
    }
    producer.flush(LIMIT)?;
    Ok(late)
}

fn read(topic: &Topic, total: u64) -> Result<hdrhistogram::Histogram<u64>, String> {
    let mut histogram = latency::histogram();
    while histogram.len() < total {
        let record = topic.consumer.poll(LIMIT).ok_or("no record within 10 s")?.map_err(|error| error.to_string())?;
        latency::record(&mut histogram, record.payload().unwrap_or_default())?;
    }
    Ok(histogram)
}
