//! Topics that are not there, that are made, that differ, that grow.

use super::*;
use rdkafka::admin::{AdminOptions, NewPartitions};
use tailwater_kafka::config::Topics;
use testbed::{shared_kafka, unique};

#[tokio::test]
async fn an_unknown_topic_is_refused_with_the_command_to_type_and_taken_once_it_is_there() {
    let broker = shared_kafka().await;
    let (there, absent) = (unique("there"), unique("absent"));
    broker.create_topic(&there, 1, &[]).await;
    let sink = sink(config(broker));
    let messages = [message("a", &there, "k", b"1"), message("b", &absent, "k", b"2"), message("c", &there, "k", b"3")];
    let rejected = publish(&sink, &messages).await;
    assert_eq!(rejected.iter().map(|r| r.index).collect::<Vec<_>>(), [1]);
    assert!(rejected[0].reason.contains(&format!("--create --topic {absent}")), "{}", rejected[0].reason);
    assert_eq!(broker.records(&there).await.len(), 2);
    broker.create_topic(&absent, 1, &[]).await;
    assert_eq!(publish(&sink, &messages[1..2]).await, vec![]);
}

#[tokio::test]
async fn a_name_that_kafka_never_takes_is_refused_without_asking() {
    let broker = shared_kafka().await;
    let rejected = publish(&sink(config(broker)), &[message("a", "not a topic", "k", b"1")]).await;
    assert!(rejected[0].reason.contains("cannot name a topic"), "{}", rejected[0].reason);
}

#[tokio::test]
async fn a_topic_is_made_as_configured_when_asked() {
    let broker = shared_kafka().await;
    let topic = unique("made");
    let topics = Topics {
        create: true,
        partitions: Some(4),
        replication: Some(1),
        config: vec!["cleanup.policy=compact".into(), "max.message.bytes=2000000".into()],
        ..Topics::default()
    };
    let sink = sink(KafkaConfig { topics, ..config(broker) });
    let big = message("b", &topic, "k", &vec![b'x'; 1_500_000]);
    assert_eq!(publish(&sink, &[message("a", &topic, "k", b"1"), big]).await, vec![]);
    let metadata = broker.admin().inner().fetch_metadata(Some(&topic), LIMIT).unwrap();
    assert_eq!(metadata.topics()[0].partitions().len(), 4);
    assert_eq!(broker.records(&topic).await.len(), 2);
}

/// T40: the keys of a topic that grew stay where they were.
#[tokio::test]
async fn pinned_keys_stay_in_their_partition_when_the_topic_grows() {
    let broker = shared_kafka().await;
    let topic = unique("grows");
    broker.create_topic(&topic, 3, &[]).await;
    let topics = Topics { refresh: Duration::from_secs(1), ..Topics::default() };
    let sink = sink(KafkaConfig { pin_partitions: Some(3), topics, ..config(broker) });
    let messages: Vec<Message> = (0..50).map(|n| message(&n.to_string(), &topic, &format!("k{n}"), b"{}")).collect();
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: messages.clone().into(), upto: None });
    settle(publisher.as_mut(), 50).await.unwrap();
    let grown = NewPartitions::new(&topic, 8);
    broker.admin().create_partitions([&grown], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // the client library has seen the new partitions by now
    let idle = tokio::time::timeout(Duration::from_secs(3), publisher.drive()).await;
    assert!(idle.is_err(), "nothing to report: {idle:?}");
    publisher.push(Slice { messages: messages.into(), upto: None });
    settle(publisher.as_mut(), 50).await.unwrap();
    let read = broker.records(&topic).await;
    assert_eq!((read.len(), read.iter().all(|record| record.partition < 3)), (100, true));
}

/// T40: without a pinned number keys move, which is said by name.
#[tokio::test]
async fn a_topic_that_grows_is_warned_of() {
    keep_log();
    let broker = shared_kafka().await;
    let topic = unique("moves");
    broker.create_topic(&topic, 3, &[]).await;
    let topics = Topics { refresh: Duration::from_secs(1), ..Topics::default() };
    let sink = sink(KafkaConfig { topics, ..config(broker) });
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: vec![message("a", &topic, "k", b"1")].into(), upto: None });
    settle(publisher.as_mut(), 1).await.unwrap();
    let grown = NewPartitions::new(&topic, 5);
    broker.admin().create_partitions([&grown], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    warns(publisher.as_mut(), &[&topic, "before=3", "now=5", "pin_partitions"]).await;
}

/// A topic that is there is compared with what was asked for, whether topics are made or not.
#[tokio::test]
async fn a_topic_that_differs_from_the_configuration_is_warned_of() {
    keep_log();
    let broker = shared_kafka().await;
    let topic = unique("differs");
    broker.create_topic(&topic, 2, &[("cleanup.policy", "delete")]).await;
    let topics = Topics { partitions: Some(6), config: vec!["cleanup.policy=compact".into()], ..Topics::default() };
    let sink = sink(KafkaConfig { topics, ..config(broker) });
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: vec![message("a", &topic, "k", b"1")].into(), upto: None });
    settle(publisher.as_mut(), 1).await.unwrap();
    warns(publisher.as_mut(), &[&topic, "wanted=6", "there=2"]).await;
    warns(publisher.as_mut(), &[&topic, "cleanup.policy", "compact", "delete"]).await;
}

/// The client mends what a broker's restart breaks; meanwhile the absence is said, and nothing is lost or repeated.
#[tokio::test]
async fn a_broker_that_restarts_is_waited_for_visibly() {
    let broker = Kafka::start().await;
    broker.create_topic("events", 2, &[]).await;
    let heard = Arc::new(Heard::default());
    let sink = KafkaSink::new(config(&broker), "test", heard.clone()).unwrap();
    let mut publisher = sink.open(0).await.unwrap();
    let batch = |from: usize| -> Vec<Message> {
        (from..from + 100)
            .map(|n| message(&n.to_string(), "events", &format!("k{}", n % 7), n.to_string().as_bytes()))
            .collect()
    };
    publisher.push(Slice { messages: batch(0).into(), upto: None });
    settle(publisher.as_mut(), 100).await.unwrap();
    broker.kill9();
    publisher.push(Slice { messages: batch(100).into(), upto: None });
    let limit = tokio::time::Instant::now() + LIMIT;
    while heard.0.lock().unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < limit, "the absence is said");
        let idle = tokio::time::timeout(Duration::from_millis(200), publisher.drive()).await;
        assert!(idle.is_err(), "nobody answers: {idle:?}");
    }
    broker.start_again().await;
    settle(publisher.as_mut(), 100).await.unwrap();
    assert_eq!(broker.records("events").await.len(), 200);
    let heard = heard.0.lock().unwrap().clone();
    assert!(heard[0].starts_with("away: "), "{heard:?}");
}
