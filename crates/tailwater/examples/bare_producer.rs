//! Publishes the same small record over and over with a plain rdkafka producer, as safe as the relay's (idempotent, all
//! replicas): what broker and client library can take, for `cargo xtask bench`.
//!
//! `BARE_PRODUCER_SERVERS=host:port bare_producer TOPIC COUNT`

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::error::Error;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("first argument: topic")?;
    let count: usize = arguments.next().ok_or("second argument: count")?.parse()?;
    let servers = std::env::var("BARE_PRODUCER_SERVERS")?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("partitioner", "murmur2_random");
    config.set("enable.idempotence", "true").set("acks", "all");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    let filler = "x".repeat(220);
    for n in 0..count {
        let (key, id) = (format!("k{}", n % 1000), format!("6f1c2a5e-0000-4000-8000-{n:012}"));
        let payload = format!("{{\"n\": {n}, \"filler\": \"{filler}\"}}");
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
        let mut record = BaseRecord::to(&topic).headers(headers).key(&key).payload(&payload);
        while let Err((error, again)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(1));
            record = again;
        }
    }
    Ok(producer.flush(Duration::from_secs(120))?)
}
