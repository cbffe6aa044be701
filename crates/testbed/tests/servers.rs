//! The servers start, answer, stop, and come back with their data.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;
use testbed::{
    Kafka, KafkaOptions, Listener, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, StopMode, http_get,
    shared_postgres,
};

#[tokio::test]
async fn postgres_comes_back_with_its_data_after_every_kind_of_stop() {
    let pg = Postgres::start().await;
    let name = pg.database("Some Test").await;
    pg.client(&name).await.batch_execute("create table t(n int); insert into t values (1)").await.unwrap();
    for mode in [Some(StopMode::Smart), Some(StopMode::Fast), Some(StopMode::Immediate), None] {
        match mode {
            Some(mode) => assert!(pg.stop(mode).await < Duration::from_secs(5)),
            None => pg.kill9(),
        }
        assert!(pg.try_client(&name).await.is_err());
        pg.start_again().await;
        let row = pg.client(&name).await.query_one("select count(*) from t", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1);
    }
    pg.freeze();
    let frozen = tokio::time::timeout(Duration::from_millis(300), pg.try_client(&name)).await;
    assert!(frozen.is_err());
    pg.thaw();
    pg.client(&name).await;
}

#[tokio::test]
async fn postgres_takes_settings_rules_and_tls() {
    let options = PostgresOptions {
        settings: vec![("wal_sender_timeout", "6s")],
        hba: vec!["host all picky 127.0.0.1/32 scram-sha-256"],
        tls: true,
        ..Default::default()
    };
    let pg = Postgres::start_with(options).await;
    let client = pg.client("postgres").await;
    client.batch_execute("create role picky login password 'secret'").await.unwrap();
    let row = client.query_one("show wal_sender_timeout", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "6s");
    assert_eq!(client.query_one("show ssl", &[]).await.unwrap().get::<_, &str>(0), "on");
    let url = |password: &str| format!("postgres://picky:{password}@127.0.0.1:{}/postgres", pg.port());
    assert!(tokio_postgres::connect(&url("secret"), tokio_postgres::NoTls).await.is_ok());
    assert!(tokio_postgres::connect(&url("wrong"), tokio_postgres::NoTls).await.is_err());
    assert!(pg.authority().unwrap().ca_path().exists());
}

#[tokio::test]
async fn shared_postgres_is_one_server() {
    assert_eq!(shared_postgres().await.port(), shared_postgres().await.port());
    assert_ne!(shared_postgres().await.database("a").await, shared_postgres().await.database("a").await);
}

#[tokio::test]
async fn rabbitmq_comes_back_with_its_queues_after_a_stop_and_a_kill() {
    let broker = RabbitMq::start_with(RabbitMqOptions { tls: true, ..Default::default() }).await;
    let made = broker.manage("PUT", "/api/queues/%2f/q", Some(r#"{"durable":true}"#)).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", broker.amqps_port())).await.is_ok());
    broker.stop().await;
    assert!(http_get(broker.http_port(), "/", None).await.is_err());
    broker.start_again().await;
    assert!(broker.ctl(&["list_queues", "name"]).await.contains('q'));
    broker.kill9();
    broker.start_again().await;
    assert_eq!(broker.management("/api/queues/%2f/q").await.status, 200);
}

#[tokio::test]
async fn kafka_comes_back_with_its_records_after_a_stop_a_kill_and_a_freeze() {
    let jaas = r#"org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="secret";"#;
    let listener = Listener {
        protocol: "SASL_SSL",
        properties: vec!["sasl.enabled.mechanisms=PLAIN".into(), format!("plain.sasl.jaas.config={jaas}")],
    };
    let broker = Kafka::start_with(KafkaOptions { listeners: vec![listener], ..Default::default() }).await;
    broker.create_topic("t", 1, &[]).await;
    let producer: FutureProducer = broker.client().create().unwrap();
    for (number, how) in ["start", "stop", "kill", "freeze"].into_iter().enumerate() {
        match how {
            "stop" => drop(broker.stop().await),
            "kill" => broker.kill9(),
            "freeze" => {
                broker.freeze();
                broker.thaw();
            }
            _ => {}
        }
        if matches!(how, "stop" | "kill") {
            broker.start_again().await;
        }
        let record = FutureRecord::to("t").key("k").payload(how);
        let sent = producer.send(record, Duration::from_secs(30)).await.unwrap();
        assert_eq!(sent.offset, number as i64);
    }
    let mut secure = ClientConfig::new();
    secure.set("bootstrap.servers", broker.listener("SASL_SSL")).set("security.protocol", "SASL_SSL");
    secure.set("ssl.ca.location", broker.authority().unwrap().ca_path().to_str().unwrap());
    secure.set("sasl.mechanism", "PLAIN").set("sasl.username", "alice").set("sasl.password", "secret");
    let client: BaseConsumer = secure.create().unwrap();
    let found =
        tokio::task::spawn_blocking(move || client.fetch_metadata(None, Duration::from_secs(20))).await.unwrap();
    assert!(found.unwrap().topics().iter().any(|topic| topic.name() == "t"));
}
