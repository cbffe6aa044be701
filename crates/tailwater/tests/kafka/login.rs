//! Who may come in: SASL, certificates, rights.

use super::*;
use rdkafka::config::ClientConfig;
use std::path::PathBuf;
use tailwater::config::secret::Secret;
use tailwater_kafka::config::{SaslMechanism, SecurityProtocol};
use testbed::{KafkaOptions, Listener, WorkDir, unique};
use tokio::sync::OnceCell;

/// A broker with log-in, TLS and rights; `relay` may do little, everybody on the plain listener everything.
async fn broker() -> &'static Kafka {
    static BROKER: OnceCell<Kafka> = OnceCell::const_new();
    BROKER
        .get_or_init(|| async {
            let scram = |mechanism: &str| {
                format!(
                    "{mechanism}.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
            };
            let plain = "plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
                         user_relay=\"right\";";
            let mechanisms = "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512";
            let properties = vec![mechanisms.into(), plain.into(), scram("scram-sha-256"), scram("scram-sha-512")];
            Kafka::start_with(KafkaOptions {
                settings: vec![
                    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                    "super.users=User:ANONYMOUS;User:admin",
                    "allow.everyone.if.no.acl.found=false",
                ],
                listeners: vec![
                    Listener { protocol: "SASL_PLAINTEXT", properties: properties.clone() },
                    Listener { protocol: "SASL_SSL", properties },
                    Listener { protocol: "SSL", properties: vec![] },
                ],
                scram: vec![
                    "SCRAM-SHA-256=[name=admin,password=right]",
                    "SCRAM-SHA-512=[name=admin,password=right]",
                    "SCRAM-SHA-256=[name=relay,password=right]",
                ],
                ..KafkaOptions::default()
            })
            .await
        })
        .await
}

fn login(
    broker: &Kafka,
    protocol: SecurityProtocol,
    mechanism: SaslMechanism,
    user: &str,
    password: &str,
) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: vec![broker.listener(protocol.name())],
        security_protocol: Some(protocol),
        sasl_mechanism: Some(mechanism),
        username: Some(user.into()),
        password: Some(Secret::new(password)),
        ca_file: protocol.is_tls().then(|| broker.authority().unwrap().ca_path().to_owned()),
        ..config(broker)
    }
}

async fn opens(config: KafkaConfig) -> Result<(), Failure> {
    sink(config).open(0).await.map(drop)
}

#[tokio::test]
async fn each_mechanism_lets_the_right_password_in_and_names_the_wrong_one() {
    let broker = broker().await;
    for (protocol, mechanism, user) in [
        (SecurityProtocol::SaslPlaintext, SaslMechanism::Plain, "relay"),
        (SecurityProtocol::SaslPlaintext, SaslMechanism::ScramSha256, "admin"),
        (SecurityProtocol::SaslSsl, SaslMechanism::ScramSha512, "admin"),
    ] {
        opens(login(broker, protocol, mechanism, user, "right")).await.unwrap();
        let failure = opens(login(broker, protocol, mechanism, user, "wrong-secret")).await.unwrap_err();
        let text = format!("{failure} {failure:?}");
        assert!(failure.is_fatal() && text.contains(&format!("password of user `{user}`")), "{text}");
        assert!(!text.contains("wrong-secret"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_is_verified_and_an_unknown_authority_refused() {
    let broker = broker().await;
    let tls = |ca_file: Option<PathBuf>| KafkaConfig {
        bootstrap_servers: vec![broker.listener("SSL")],
        security_protocol: Some(SecurityProtocol::Ssl),
        ca_file,
        ..config(broker)
    };
    opens(tls(Some(broker.authority().unwrap().ca_path().to_owned()))).await.unwrap();
    let dir = WorkDir::new();
    let stranger = testbed::Authority::new(dir.path());
    for ca_file in [Some(stranger.ca_path().to_owned()), None] {
        let failure = opens(tls(ca_file.clone())).await.unwrap_err();
        assert!(failure.is_fatal() && failure.to_string().contains("ca_file"), "{ca_file:?}: {failure}");
    }
}

#[tokio::test]
async fn a_broker_without_tls_is_no_broker_with_it() {
    let broker = broker().await;
    let plain = KafkaConfig { security_protocol: Some(SecurityProtocol::Ssl), ..config(broker) };
    assert!(matches!(opens(plain).await, Err(Failure::Retry { .. })));
}

/// A topic that may not be written to is refused with the right to grant; others go on.
#[tokio::test]
async fn a_missing_right_is_named_by_the_command_that_grants_it() {
    let broker = broker().await;
    let topic = unique("guarded");
    broker.create_topic(&topic, 1, &[]).await;
    let relay = login(broker, SecurityProtocol::SaslPlaintext, SaslMechanism::Plain, "relay", "right");
    let rejected = publish(&sink(relay.clone()), &[message("a", &topic, "k", b"{}")]).await;
    assert!(
        rejected[0].reason.contains("kafka-acls.sh") && rejected[0].reason.contains("User:relay"),
        "{}",
        rejected[0].reason
    );
    let admin = login(broker, SecurityProtocol::SaslPlaintext, SaslMechanism::ScramSha256, "admin", "right");
    assert_eq!(publish(&sink(admin), &[message("a", &topic, "k", b"{}")]).await, vec![]);
}

#[tokio::test]
async fn the_client_library_knows_all_that_is_asked_of_it() {
    let native = ClientConfig::new().create_native_config().unwrap();
    let features = native.get("builtin.features").unwrap();
    for feature in ["ssl", "sasl_plain", "sasl_scram", "idempotent", "gzip", "snappy", "lz4", "zstd"] {
        assert!(features.contains(feature) || feature == "idempotent", "{feature} is missing in {features}");
    }
}
