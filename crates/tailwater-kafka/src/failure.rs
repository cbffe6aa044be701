//! What can go wrong with a cluster, and the one place that decides what to do then.
//!
//! Unknown → retry: waiting is safe, skipping is not. Log-in, certificate, cluster-wide permission, a transactional id that
//! somebody else uses → an operator must act, and reads the command to type. What a single message or its topic is to
//! blame for is no failure but a rejection ([`blames_message`]).

use crate::context::ClientError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::time::Duration;
use tailwater_core::Failure;

/// Everything that ends a publisher or an attempt to get one.
#[derive(Debug, thiserror::Error)]
pub enum KafkaProblem {
    /// The client as a whole: connection, log-in, a broken producer.
    #[error("{doing}: {} ({:?})", .error.reason, .error.code)]
    Client { doing: &'static str, error: ClientError },
    #[error("{doing}: no answer within {limit_s} s{}", .cause.as_ref().map(|cause| format!("; last error: {cause}")).unwrap_or_default())]
    Timeout { doing: &'static str, limit_s: f32, cause: Option<String> },
    #[error("publish to topic `{topic}`: {code}")]
    Delivery { topic: String, code: Code },
    /// The offender is known and reported as a rejection; the rest goes again through a new producer.
    #[error("the broker refused a message: {0}")]
    OneRefused(Code),
    #[error("{doing}: {code}")]
    Call { doing: &'static str, code: Code },
    #[error("batches become smaller: topic `{topic}` takes at most {limit} bytes at once")]
    SmallerBatches { topic: String, limit: usize },
    /// The topic of positions is not as it must be.
    #[error("{0}")]
    Position(String),
    #[error("the source was opened anew")]
    NewClaim,
    #[error("another process publishes with transactional id `{0}`, and has gone on")]
    Overtaken(String),
    #[error("{0}")]
    Config(String),
}

impl KafkaProblem {
    /// A call of the client library that failed. Values of settings are not repeated: they may be secret.
    pub fn call(doing: &'static str) -> impl Fn(KafkaError) -> KafkaProblem {
        move |error| match error {
            KafkaError::ClientConfig(_, text, key, _) => KafkaProblem::Config(format!("{doing}: `{key}`: {text}")),
            KafkaError::ClientCreation(text) => KafkaProblem::Config(format!("{doing}: {text}")),
            other => {
                let code = other.rdkafka_error_code().unwrap_or(Code::Unknown);
                KafkaProblem::Call { doing, code }
            }
        }
    }

    /// Says no more than that the producer is broken: another problem tells why.
    pub fn is_echo(&self) -> bool {
        matches!(self, KafkaProblem::Delivery { code, .. } if crate::producer::is_echo(*code))
    }

    fn code(&self) -> Option<Code> {
        match self {
            KafkaProblem::Client { error, .. } => Some(error.code),
            KafkaProblem::Delivery { code, .. } | KafkaProblem::Call { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Who we are and whom we talk to: names for hints. No secret in it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub user: String,
    pub servers: String,
    pub transactional_id: Option<String>,
}

/// The one table: problem → what the caller does.
pub fn classify(problem: KafkaProblem, identity: &Identity) -> Failure {
    let Identity { user, servers, .. } = identity;
    let text = problem.to_string();
    let hint = match problem.code() {
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => Some(format!(
            "the brokers do not accept the password of user `{user}`: correct it, or for SCRAM: kafka-configs.sh \
             --bootstrap-server {servers} --alter --entity-type users --entity-name {user} --add-config 'SCRAM-SHA-512=[password=…]'"
        )),
        Some(Code::UnsupportedSASLMechanism) => {
            Some("write a `sasl_mechanism` that the brokers offer (their listener's sasl.enabled.mechanisms)".into())
        }
        Some(Code::SSL) if text.contains("certificate") => Some(
            "name the authority that signed the brokers' certificates in `ca_file`, and the hosts as in the certificates".into(),
        ),
        Some(Code::ClusterAuthorizationFailed) => Some(format!(
            "allow user `{user}` to produce idempotently: {}",
            acl(identity, "--cluster --operation IdempotentWrite")
        )),
        Some(Code::TransactionalIdAuthorizationFailed) => {
            let id = identity.transactional_id.as_deref().unwrap_or("ID");
            Some(acl(identity, &format!("--transactional-id {id} --operation Write --operation Describe")))
        }
        Some(Code::InvalidTransactionTimeout) => {
            Some("raise transaction.max.timeout.ms at the brokers to at least 60000".into())
        }
        Some(Code::UnsupportedVersion | Code::UnsupportedFeature) => {
            Some("these brokers are too old: Kafka 0.11 or later is needed".into())
        }
        Some(Code::InvalidArgument | Code::InvalidConfig) => Some("correct the sink's configuration".into()),
        // fenced: whoever did it, the next publisher sees in the topic whether somebody else goes on
        _ => match &problem {
            KafkaProblem::Config(_) => Some("correct the sink's configuration".into()),
            KafkaProblem::Overtaken(id) => Some(format!(
                "two pipelines must not share transactional id `{id}`: set `transactional_id`; after a take-over by another process this one stands by when it is started again"
            )),
            KafkaProblem::Position(_) => Some("mend the topic, or name another one in `offsets_topic`".into()),
            _ => None,
        },
    };
    match hint {
        Some(hint) => Failure::fatal(hint, problem),
        None => Failure::Retry { after: pause(&problem), source: Box::new(problem) },
    }
}

/// Nothing is the peer's fault: no reason to wait.
fn pause(problem: &KafkaProblem) -> Option<Duration> {
    matches!(problem, KafkaProblem::SmallerBatches { .. } | KafkaProblem::OneRefused(_) | KafkaProblem::NewClaim)
        .then_some(Duration::ZERO)
}

fn acl(identity: &Identity, what: &str) -> String {
    let Identity { user, servers, .. } = identity;
    let user = if user.is_empty() { "ANONYMOUS" } else { user };
    format!("kafka-acls.sh --bootstrap-server {servers} --add --allow-principal User:{user} {what}")
}

/// Whether a delivery failed because of the message or its topic: others may go through.
pub fn blames_message(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
            | Code::TopicAuthorizationFailed
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
    )
}

/// A sentence for people: why the broker does not take messages of this topic, and what to type.
pub fn rejection(code: Code, topic: &str, identity: &Identity) -> String {
    let servers = &identity.servers;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => format!(
            "topic `{topic}` does not exist (make it: kafka-topics.sh --bootstrap-server {servers} --create --topic {topic} \
             --partitions 6, or set topics.create = true; the event then goes through)"
        ),
        Code::TopicAuthorizationFailed => format!(
            "user `{}` may not write to topic `{topic}` ({})",
            identity.user,
            acl(identity, &format!("--topic {topic} --operation Write --operation Describe"))
        ),
        Code::MessageSizeTooLarge => format!(
            "topic `{topic}` does not take a message of this size (raise its max.message.bytes: kafka-configs.sh \
             --bootstrap-server {servers} --alter --entity-type topics --entity-name {topic} --add-config max.message.bytes=…)"
        ),
        Code::InvalidTopic => format!("`{topic}` cannot name a topic: 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`"),
        Code::InvalidRecord => format!("topic `{topic}` refuses the record (a compacted topic needs a key)"),
        Code::InvalidTimestamp => format!(
            "topic `{topic}` refuses the record's timestamp (message.timestamp.before.max.ms, message.timestamp.after.max.ms)"
        ),
        other => format!("topic `{topic}` refuses the message: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(code: Code, reason: &str) -> KafkaProblem {
        KafkaProblem::Client { doing: "connect", error: ClientError { code, reason: reason.into() } }
    }

    #[test]
    fn what_each_problem_leads_to() {
        let identity = Identity {
            user: "relay".into(),
            servers: "k:9092".into(),
            transactional_id: Some("tailwater-orders".into()),
        };
        let table: Vec<(KafkaProblem, Option<&str>)> = vec![
            (
                client(Code::Authentication, "Authentication failed: Invalid username or password"),
                Some("entity-name relay"),
            ),
            (client(Code::SaslAuthenticationFailed, "no"), Some("password of user `relay`")),
            (
                client(
                    Code::SSL,
                    "SSL handshake failed: certificate verify failed: broker certificate could not be verified",
                ),
                Some("ca_file"),
            ),
            (client(Code::SSL, "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?"), None),
            (client(Code::ClusterAuthorizationFailed, "no"), Some("--cluster --operation IdempotentWrite")),
            (client(Code::AllBrokersDown, "1/1 brokers are down"), None),
            (client(Code::Resolve, "Failed to resolve 'k:9092'"), None),
            (client(Code::BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed"), None),
            (client(Code::Fatal, "_GAPLESS_GUARANTEE"), None),
            (
                KafkaProblem::Call { doing: "init transactions", code: Code::TransactionalIdAuthorizationFailed },
                Some("--transactional-id tailwater-orders"),
            ),
            (KafkaProblem::Overtaken("tailwater-orders".into()), Some("tailwater-orders")),
            (KafkaProblem::NewClaim, None),
            (KafkaProblem::Position("topic `p`".into()), Some("offsets_topic")),
            (KafkaProblem::Call { doing: "commit", code: Code::Fenced }, None),
            (KafkaProblem::Call { doing: "commit", code: Code::ProducerFenced }, None),
            (KafkaProblem::Call { doing: "init transactions", code: Code::UnsupportedFeature }, Some("too old")),
            (KafkaProblem::Call { doing: "look up topics", code: Code::OperationTimedOut }, None),
            (KafkaProblem::Delivery { topic: "t".into(), code: Code::GaplessGuarantee }, None),
            (KafkaProblem::Delivery { topic: "t".into(), code: Code::OutOfOrderSequenceNumber }, None),
            (KafkaProblem::Delivery { topic: "t".into(), code: Code::NotEnoughReplicas }, None),
            (KafkaProblem::Delivery { topic: "t".into(), code: Code::MessageSizeTooLarge }, None),
            (KafkaProblem::OneRefused(Code::InvalidRecord), None),
            (KafkaProblem::SmallerBatches { topic: "t".into(), limit: 9 }, None),
            (KafkaProblem::Timeout { doing: "connect", limit_s: 10.0, cause: None }, None),
            (KafkaProblem::Config("`x`".into()), Some("configuration")),
        ];
        for (problem, expected) in table {
            let shown = problem.to_string();
            match (classify(problem, &identity), expected) {
                (Failure::Retry { .. }, None) => {}
                (Failure::Fatal { hint, .. }, Some(part)) => assert!(hint.contains(part), "{shown}: {hint}"),
                (got, expected) => panic!("{shown}: {got:?}, expected {expected:?}"),
            }
        }
    }

    /// An idempotent producer without transactions has nobody to be fenced by: a new one goes on.
    #[test]
    fn an_epoch_that_is_lost_without_transactions_is_tried_again() {
        let failure =
            classify(KafkaProblem::Call { doing: "publish", code: Code::InvalidProducerEpoch }, &Identity::default());
        assert!(!failure.is_fatal());
    }

    #[test]
    fn whom_a_failed_delivery_blames() {
        let message = [
            Code::MessageSizeTooLarge,
            Code::InvalidRecord,
            Code::UnknownTopicOrPartition,
            Code::TopicAuthorizationFailed,
        ];
        assert!(message.into_iter().all(blames_message));
        let peer = [
            Code::NotEnoughReplicas,
            Code::BrokerTransportFailure,
            Code::GaplessGuarantee,
            Code::PurgeQueue,
            Code::KafkaStorageError,
            Code::Fatal,
        ];
        assert!(!peer.into_iter().any(blames_message));
    }

    #[test]
    fn the_value_of_a_setting_is_not_repeated() {
        let error = rdkafka::ClientConfig::new()
            .set("sasl.password", "hidden")
            .set("sasl.mechanismx", "hidden")
            .create_native_config();
        let problem = KafkaProblem::call("configure")(error.map(|_| ()).expect_err("no such setting"));
        assert!(!format!("{problem} {problem:?}").contains("hidden"), "{problem}");
    }
}
