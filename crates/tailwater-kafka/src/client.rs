//! From configuration to a librdkafka client. What makes delivery safe is set here, once, and cannot be configured.
//!
//! OpenSSL is linked statically and does not know where this system keeps its roots: without `ca_file` librdkafka looks in
//! the usual places (`/etc/ssl/certs/ca-certificates.crt`, `/etc/pki/tls/certs/ca-bundle.crt` and so on) and takes the first.

use crate::config::{KafkaConfig, Partitioner};
use crate::failure::KafkaProblem;
use rdkafka::ClientConfig;
use std::time::Duration;
use tailwater_core::secret::Secret;

/// Messages in one batch never exceed this, bytes, whatever a topic allows; a single message may.
pub const BATCH_BYTES: usize = 1_000_000;
/// librdkafka's own limit on a message: our limit is the topic's, checked before.
const MESSAGE_BYTES: usize = 1_000_000_000;
/// Bytes that librdkafka buffers at most, kB: far beyond `delivery.memory_bytes`, which is the limit.
const BUFFER_KBYTES: u32 = 2_000_000;

/// How to reach the cluster and log in: what all kinds of clients share.
pub fn connection(config: &KafkaConfig) -> Result<ClientConfig, KafkaProblem> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.bootstrap_servers.join(","))
        .set("client.id", config.client_id.as_deref().unwrap_or("tailwater"))
        .set("security.protocol", config.protocol().name())
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("socket.connection.setup.timeout.ms", millis(config.connect_timeout.max(Duration::from_secs(1))))
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "3000")
        .set("metadata.max.age.ms", millis(config.topics.refresh * 3))
        .set("topic.metadata.refresh.interval.ms", millis(config.topics.refresh))
        // its histograms alone are 0.4 MiB a client (KIP-714), which hundreds of pipelines would feel
        .set("enable.metrics.push", "false")
        .set("log.connection.close", "false");
    if config.protocol().is_tls() {
        client.set("enable.ssl.certificate.verification", "true").set("ssl.endpoint.identification.algorithm", "https");
        match &config.ca_file {
            Some(file) => client.set("ssl.ca.location", file.display().to_string()),
            None => client.set("ssl.ca.location", "probe"),
        };
        if let (Some(certificate), Some(key)) = (&config.certificate_file, &config.key_file) {
            client.set("ssl.certificate.location", certificate.display().to_string());
            client.set("ssl.key.location", key.display().to_string());
        }
        if let Some(password) = &config.key_password {
            client.set("ssl.key.password", password.expose());
        }
    }
    if config.protocol().is_sasl() {
        let password = password(config)?;
        client
            .set("sasl.mechanism", config.sasl_mechanism.map_or("PLAIN", |mechanism| mechanism.name()))
            .set("sasl.username", config.username.as_deref().unwrap_or_default())
            .set("sasl.password", password.expose());
    }
    Ok(client)
}

fn password(config: &KafkaConfig) -> Result<Secret, KafkaProblem> {
    match &config.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| KafkaProblem::Config(format!("read the password from {}: {error}", file.display())))?;
            Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
        None => Ok(config.password.clone().unwrap_or_default()),
    }
}

/// A producer: idempotent, `acks=all`, no gap, no time limit on a message.
pub fn producer(config: &KafkaConfig, batch_bytes: usize) -> Result<ClientConfig, KafkaProblem> {
    let mut client = any_producer(config, batch_bytes)?;
    client
        // a batch that fails for good stops the producer, so that nothing behind it passes
        .set("enable.gapless.guarantee", "true")
        // an expired message would let later ones pass
        .set("message.timeout.ms", "0");
    Ok(client)
}

/// A producer with transactions: what fails or expires in one takes the whole with it. `limit`: of the coordinator.
pub fn transactional(
    config: &KafkaConfig,
    batch_bytes: usize,
    id: &str,
    limit: Duration,
) -> Result<ClientConfig, KafkaProblem> {
    let mut client = any_producer(config, batch_bytes)?;
    client.set("transactional.id", id).set("transaction.timeout.ms", millis(limit));
    Ok(client)
}

fn any_producer(config: &KafkaConfig, batch_bytes: usize) -> Result<ClientConfig, KafkaProblem> {
    let mut client = connection(config)?;
    let partitioner = match config.partitioner {
        Partitioner::Murmur2 => "murmur2_random",
        Partitioner::Crc32 => "consistent_random",
    };
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", millis(config.linger))
        .set("batch.size", batch_bytes.min(BATCH_BYTES).to_string())
        .set("message.max.bytes", MESSAGE_BYTES.to_string())
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", BUFFER_KBYTES.to_string())
        .set("compression.type", config.compression.name())
        .set("partitioner", partitioner);
    Ok(client)
}

pub fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
