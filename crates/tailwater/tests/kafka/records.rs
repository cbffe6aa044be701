//! What a record is made of, and where it goes.

use super::*;
use tailwater_core::HeaderValue;
use tailwater_kafka::config::Compression;
use tailwater_kafka::partition;
use testbed::{shared_kafka, unique};

#[tokio::test]
async fn a_record_carries_key_headers_and_the_moment_of_the_event() {
    let broker = shared_kafka().await;
    let topic = unique("records");
    broker.create_topic(&topic, 1, &[]).await;
    let mut full = message("a", &topic, "k1", b"{\"n\":1}");
    full.headers.push("id", HeaderValue::Text(Bytes::from_static(b"a")));
    full.headers.push("n", HeaderValue::Int(-7));
    full.headers.push("yes", HeaderValue::Bool(true));
    full.headers.push("none", HeaderValue::Null);
    full.headers.push("n", HeaderValue::Bytes(Bytes::from_static(&[0xff, 0])));
    let tombstone = Message { payload: None, ..message("b", &topic, "k1", b"") };
    let empty = Message { key: None, ..message("c", &topic, "", b"") };
    assert_eq!(publish(&sink(config(broker)), &[full, tombstone, empty]).await, vec![]);
    let read = broker.records(&topic).await;
    let text = |value: &str| Some(value.as_bytes().to_vec());
    assert_eq!((read[0].key.clone(), read[0].value.clone()), (text("k1"), text("{\"n\":1}")));
    assert_eq!(read[0].timestamp_ms, 1_700_000_000_123);
    let headers =
        [("id", text("a")), ("n", text("-7")), ("yes", text("true")), ("none", None), ("n", Some(vec![0xff, 0]))];
    assert_eq!(read[0].headers, headers.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!((read[1].key.clone(), read[1].value.clone()), (text("k1"), None), "a tombstone has no bytes at all");
    assert_eq!((read[2].key.clone(), read[2].value.clone()), (None, text("")), "no key is not an empty key");
}

/// The Java client's partition for each key: its hashes are in the table of `partition.rs`.
#[tokio::test]
async fn a_key_goes_where_the_java_client_would_send_it() {
    let broker = shared_kafka().await;
    let topic = unique("spread");
    broker.create_topic(&topic, 7, &[]).await;
    let keys = (0..200).map(|n| format!("key-{n}")).chain(["21".into(), "foobar".into(), "".into()]);
    let messages: Vec<Message> = keys.map(|key| message(&key, &topic, &key, b"{}")).collect();
    assert_eq!(publish(&sink(config(broker)), &messages).await, vec![]);
    let read = broker.records(&topic).await;
    assert_eq!(read.len(), messages.len());
    for record in read {
        let key = record.key.unwrap();
        assert_eq!(record.partition, partition::of_key(&key, 7), "{}", String::from_utf8_lossy(&key));
    }
}

#[tokio::test]
async fn a_chosen_partition_is_kept_and_one_that_is_not_there_is_refused() {
    let broker = shared_kafka().await;
    let topic = unique("chosen");
    broker.create_topic(&topic, 3, &[]).await;
    let chosen = |id: &str, partition| Message { partition: Some(partition), ..message(id, &topic, "k", b"{}") };
    let messages = [chosen("a", 2), chosen("b", 3), chosen("c", 0), chosen("d", -2)];
    let rejected = publish(&sink(config(broker)), &messages).await;
    assert_eq!(rejected.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 3]);
    assert!(rejected[0].reason.contains("--partitions 4"), "{}", rejected[0].reason);
    let mut partitions: Vec<i32> = broker.records(&topic).await.iter().map(|record| record.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 2]);
}

/// T38: one record above the topic's limit between two good ones.
#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_its_neighbours_arrive() {
    let broker = shared_kafka().await;
    let topic = unique("small");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "10000")]).await;
    let messages = [
        message("a", &topic, "k", &[b'x'; 5000]),
        message("b", &topic, "k", &[b'x'; 20_000]),
        message("c", &topic, "k", &[b'x'; 9000]),
    ];
    let sink = sink(config(broker));
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: messages.to_vec().into(), upto: None });
    // the topic takes smaller batches than this producer makes: the lane opens another
    let failure = settle(publisher.as_mut(), 3).await.unwrap_err();
    assert!(matches!(failure, Failure::Retry { after: Some(Duration::ZERO), .. }), "{failure}");
    drop(publisher);
    let rejected = publish(&sink, &messages).await;
    assert_eq!(rejected.iter().map(|r| r.index).collect::<Vec<_>>(), [1]);
    assert!(rejected[0].reason.contains("10000 are allowed") && rejected[0].reason.contains("max.message.bytes"));
    let read = broker.records(&topic).await;
    assert_eq!(read.iter().map(|r| r.value.as_ref().unwrap().len()).collect::<Vec<_>>(), [5000, 9000]);
}

/// T38: many small messages to a topic whose limit is smaller than a batch would be.
#[tokio::test]
async fn batches_fit_the_topic_with_the_smallest_limit() {
    let broker = shared_kafka().await;
    let topic = unique("batches");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "3000")]).await;
    let messages: Vec<Message> = (0..500).map(|n| message(&n.to_string(), &topic, "k", &[b'x'; 400])).collect();
    let sink = sink(config(broker));
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: messages.clone().into(), upto: None });
    assert!(!settle(publisher.as_mut(), 500).await.unwrap_err().is_fatal());
    assert_eq!(publish(&sink, &messages).await, vec![]);
    assert_eq!(broker.records(&topic).await.len(), 500);
}

/// T38: the broker says no to what could not be seen before: a record without a key for a compacted topic. Behind a batch
/// that fails nothing passes; one message at a time the culprit is known.
#[tokio::test]
async fn what_only_the_broker_can_refuse_is_named_when_it_is_alone() {
    let broker = shared_kafka().await;
    let topic = unique("compacted");
    broker.create_topic(&topic, 1, &[("cleanup.policy", "compact")]).await;
    let keyless = Message { key: None, ..message("b", &topic, "", b"{}") };
    let messages = [message("a", &topic, "k", b"{}"), keyless.clone(), message("c", &topic, "k", b"{}")];
    let sink = sink(config(broker));
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: messages.to_vec().into(), upto: None });
    assert!(!settle(publisher.as_mut(), 3).await.unwrap_err().is_fatal());
    drop(publisher);
    let mut publisher = sink.open(0).await.unwrap();
    publisher.push(Slice { messages: vec![keyless].into(), upto: None });
    let settled = publisher.drive().await.unwrap();
    assert_eq!((settled.durable, settled.rejected[0].index), (0, 0));
    assert!(settled.rejected[0].reason.contains("needs a key"), "{}", settled.rejected[0].reason);
    publisher.release(0);
    assert_eq!(publisher.drive().await.unwrap().durable, 1);
}

#[tokio::test]
async fn a_dead_letter_says_where_it_was_to_go() {
    let broker = shared_kafka().await;
    let (topic, letters) = (unique("events"), unique("dead"));
    broker.create_topic(&letters, 2, &[]).await;
    let config = KafkaConfig { dead_letter_topic: Some(letters.clone()), ..config(broker) };
    let sink = KafkaSink::dead_letters(&config, "test", Arc::new(Unobserved)).unwrap().unwrap();
    let mut letter = message("7", &topic, "k", b"{}");
    letter.headers.push("x-tailwater-reason", HeaderValue::Text(Bytes::from_static(b"no topic")));
    letter.partition = Some(5);
    assert_eq!(publish(&sink, &[letter]).await, vec![]);
    let read = broker.records(&letters).await;
    assert_eq!(read[0].header("x-tailwater-original-topic"), Some(&*topic));
    assert_eq!(read[0].header("x-tailwater-reason"), Some("no topic"));
    assert_eq!(read[0].header("id"), Some("7"));
    assert_eq!(read[0].key.as_deref(), Some(&b"k"[..]));
}

#[tokio::test]
async fn every_compression_is_read_back() {
    let broker = shared_kafka().await;
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let topic = unique("packed");
        // the topic keeps what the producer chose
        broker.create_topic(&topic, 1, &[]).await;
        let text = "so much of the same ".repeat(2_000);
        let messages: Vec<Message> =
            (0..20).map(|n| message(&n.to_string(), &topic, "k", format!("{n} {text}").as_bytes())).collect();
        assert_eq!(publish(&sink(KafkaConfig { compression, ..config(broker) }), &messages).await, vec![]);
        let read = broker.records(&topic).await;
        assert_eq!(read.len(), 20, "{compression:?}");
        assert!(read.iter().enumerate().all(|(n, record)| record.text() == format!("{n} {text}")), "{compression:?}");
    }
}

/// Nothing waits for company: an event at rest leaves at once, unless a time was asked for.
#[tokio::test]
async fn a_single_event_leaves_at_once_unless_told_to_linger() {
    let broker = shared_kafka().await;
    let topic = unique("alone");
    broker.create_topic(&topic, 1, &[]).await;
    let mut best = Vec::new();
    for linger in [KafkaConfig::default().linger, Duration::from_millis(400)] {
        let sink = sink(KafkaConfig { linger, ..config(broker) });
        let mut publisher = sink.open(0).await.unwrap();
        let mut times = Vec::new();
        for n in 0..8 {
            let start = tokio::time::Instant::now();
            publisher.push(Slice { messages: vec![message(&n.to_string(), &topic, "k", b"1")].into(), upto: None });
            settle(publisher.as_mut(), 1).await.unwrap();
            times.push(start.elapsed());
        }
        best.push(times.into_iter().min().unwrap());
    }
    println!("an event at rest, at best: {:?}; with linger 400 ms: {:?}", best[0], best[1]);
    assert!(best[0] < Duration::from_millis(200) && best[1] > Duration::from_millis(350), "{best:?}");
}
