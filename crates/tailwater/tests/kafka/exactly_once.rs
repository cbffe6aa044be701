//! Transactions that carry the position: what becomes visible, what is repeated, who is fenced.

use super::*;
use tailwater_core::{Checkpoints, Position};
use testbed::{shared_kafka, unique};

/// A pipeline's sink and checkpoints, as one process has them.
struct Process {
    sink: KafkaSink,
    checkpoints: Arc<dyn Checkpoints>,
}

impl Process {
    fn new(broker: &Kafka, name: &str) -> Process {
        let config = KafkaConfig { exactly_once: true, offsets_topic: format!("positions-{name}"), ..config(broker) };
        let sink = KafkaSink::new(config, name, Arc::new(Unobserved)).unwrap();
        let checkpoints = sink.checkpoints().expect("exactly-once keeps its own positions");
        Process { sink, checkpoints }
    }

    async fn claim(&self) -> Option<Position> {
        self.checkpoints.claim().await.unwrap()
    }

    async fn open(&self) -> Box<dyn Publisher> {
        self.sink.open(0).await.unwrap()
    }
}

fn position(text: &str) -> Position {
    Position::new(text)
}

fn slice(messages: &[Message], upto: Option<&str>) -> Slice {
    Slice { messages: messages.into(), upto: upto.map(position) }
}

fn numbered(topic: &str, from: usize, to: usize) -> Vec<Message> {
    (from..to).map(|n| message(&n.to_string(), topic, &format!("k{}", n % 5), n.to_string().as_bytes())).collect()
}

/// Saves a position while the publisher is driven, as a lane drives it.
async fn save(process: &Process, publisher: &mut dyn Publisher, text: &str) {
    let place = position(text);
    tokio::select! {
        saved = process.checkpoints.save(&place) => saved.unwrap(),
        idle = publisher.drive() => panic!("nothing to report: {idle:?}"),
    }
}

/// Each of these numbers came once, and nothing else.
async fn assert_each_once(broker: &Kafka, topic: &str, numbers: std::ops::Range<usize>) {
    let values = values(broker, topic).await;
    let missing: Vec<usize> = numbers.clone().filter(|n| !values.contains(n)).take(10).collect();
    let repeated: Vec<usize> =
        values.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(10).collect();
    assert_eq!((missing, repeated, values.len()), (vec![], vec![], numbers.len()), "missing, repeated, in all");
}

async fn values(broker: &Kafka, topic: &str) -> Vec<usize> {
    let mut values: Vec<usize> =
        broker.records(topic).await.iter().map(|record| record.text().parse().unwrap()).collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn messages_and_position_are_stored_together() {
    let broker = shared_kafka().await;
    let topic = unique("once");
    broker.create_topic(&topic, 3, &[]).await;
    let process = Process::new(broker, &topic);
    assert_eq!(process.checkpoints.load().await.unwrap(), None);
    assert_eq!(process.claim().await, None);
    let mut publisher = process.open().await;
    publisher.push(slice(&numbered(&topic, 0, 100), Some("one")));
    publisher.push(slice(&numbered(&topic, 100, 200), Some("two")));
    assert_eq!(settle(publisher.as_mut(), 200).await.unwrap(), vec![]);
    assert_each_once(broker, &topic, 0..200).await;
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("two")));
}

/// A slice that was published in part, by a process that is gone: its source begins at the position, the rest is published.
#[tokio::test]
async fn what_lies_published_behind_the_position_is_not_published_again() {
    let broker = shared_kafka().await;
    let topic = unique("part");
    broker.create_topic(&topic, 3, &[]).await;
    let gone = Process::new(broker, &topic);
    gone.claim().await;
    let mut publisher = gone.open().await;
    publisher.push(slice(&numbered(&topic, 0, 5), Some("one")));
    publisher.push(slice(&numbered(&topic, 5, 8), None));
    settle(publisher.as_mut(), 8).await.unwrap();
    publisher.push(slice(&numbered(&topic, 8, 10), None));
    settle(publisher.as_mut(), 2).await.unwrap();
    drop((publisher, gone));
    // other slices than before, and a process that goes as well
    let next = Process::new(broker, &topic);
    assert_eq!(next.claim().await, Some(position("one")));
    let mut publisher = next.open().await;
    publisher.push(slice(&numbered(&topic, 5, 7), Some("one and a bit")));
    publisher.push(slice(&numbered(&topic, 7, 9), None));
    settle(publisher.as_mut(), 4).await.unwrap();
    save(&next, publisher.as_mut(), "one and a bit").await;
    drop((publisher, next));
    let last = Process::new(broker, &topic);
    assert_eq!(last.claim().await, Some(position("one and a bit")));
    let mut publisher = last.open().await;
    publisher.push(slice(&numbered(&topic, 7, 20), Some("two")));
    settle(publisher.as_mut(), 13).await.unwrap();
    assert_each_once(broker, &topic, 0..20).await;
    assert_eq!(last.checkpoints.load().await.unwrap(), Some(position("two")));
}

/// A commit whose answer nobody waited for was made, or was not: the next publisher finds out.
#[tokio::test]
async fn publishers_that_end_at_any_moment_repeat_nothing_and_lose_nothing() {
    let broker = shared_kafka().await;
    let topic = unique("doubt");
    broker.create_topic(&topic, 2, &[]).await;
    let process = Process::new(broker, &topic);
    process.claim().await;
    let (mut settled, mut ended) = (0, 0);
    let count = 1200;
    while settled < count {
        let mut publisher = process.open().await;
        let life = Duration::from_micros(rand::random_range(0..60_000));
        let end = tokio::time::Instant::now() + life;
        let mut pushed = settled;
        while settled < count {
            if pushed < count && pushed - settled < 200 {
                let to = (pushed + 20).min(count);
                publisher.push(slice(&numbered(&topic, pushed, to), (to % 60 == 0).then(|| to.to_string()).as_deref()));
                pushed = to;
            }
            match tokio::time::timeout_at(end, publisher.drive()).await {
                Ok(report) => settled += report.unwrap().durable,
                Err(_) => break,
            }
        }
        ended += 1;
    }
    println!("{ended} publishers");
    assert_each_once(broker, &topic, 0..count).await;
}

/// T50: who claims a pipeline fences whoever published before.
#[tokio::test]
async fn a_process_that_was_overtaken_can_store_nothing_and_says_so() {
    let broker = shared_kafka().await;
    let topic = unique("fenced");
    broker.create_topic(&topic, 2, &[]).await;
    let (first, second) = (Process::new(broker, &topic), Process::new(broker, &topic));
    first.claim().await;
    let mut publisher = first.open().await;
    publisher.push(slice(&numbered(&topic, 0, 10), Some("one")));
    settle(publisher.as_mut(), 10).await.unwrap();
    assert_eq!(second.claim().await, Some(position("one")));
    let mut overtaking = second.open().await;
    overtaking.push(slice(&numbered(&topic, 10, 20), Some("two")));
    settle(overtaking.as_mut(), 10).await.unwrap();
    publisher.push(slice(&numbered(&topic, 10, 20), Some("two")));
    let failure = settle(publisher.as_mut(), 10).await.unwrap_err();
    assert!(!failure.is_fatal(), "who did it is for the next publisher to see: {failure}");
    let failure = first.sink.open(0).await.map(drop).unwrap_err();
    assert!(failure.is_fatal() && failure.to_string().contains("transactional id"), "{failure}");
    assert_each_once(broker, &topic, 0..20).await;
}

#[tokio::test]
async fn a_position_without_messages_is_saved_and_an_older_one_moves_nothing_back() {
    let broker = shared_kafka().await;
    let topic = unique("idle");
    broker.create_topic(&topic, 2, &[]).await;
    let process = Process::new(broker, &topic);
    process.claim().await;
    let mut publisher = process.open().await;
    for (from, upto) in [(0, "one"), (10, "two"), (20, "four")] {
        publisher.push(slice(&numbered(&topic, from, from + 10), Some(upto)));
        settle(publisher.as_mut(), 10).await.unwrap();
    }
    save(&process, publisher.as_mut(), "two").await;
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("four")), "a later one is there already");
    // between two and four, where nothing was to be published; `four` is behind it
    save(&process, publisher.as_mut(), "three").await;
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("three")));
    drop(process);
    let next = Process::new(broker, &topic);
    assert_eq!(next.claim().await, Some(position("three")));
    let mut publisher = next.open().await;
    publisher.push(slice(&numbered(&topic, 20, 30), Some("four")));
    settle(publisher.as_mut(), 10).await.unwrap();
    assert_each_once(broker, &topic, 0..30).await;
}

/// A refused message stops what comes behind it: with the dead letters it goes on.
#[tokio::test]
async fn nothing_passes_a_refused_message_in_a_transaction() {
    let broker = shared_kafka().await;
    let (topic, absent) = (unique("stops"), unique("absent"));
    broker.create_topic(&topic, 1, &[]).await;
    let process = Process::new(broker, &topic);
    process.claim().await;
    let mut messages = numbered(&topic, 0, 6);
    messages[3].topic = absent.into();
    let mut publisher = process.open().await;
    publisher.push(slice(&messages, Some("one")));
    let (mut durable, mut rejected) = (0, vec![]);
    while durable < 3 || rejected.is_empty() {
        let report = publisher.drive().await.unwrap();
        durable += report.durable;
        rejected.extend(report.rejected);
    }
    assert_eq!((durable, rejected[0].index), (3, 3));
    assert_eq!(values(broker, &topic).await, [0, 1, 2]);
    publisher.release(3);
    settle(publisher.as_mut(), 3).await.unwrap();
    assert_eq!(values(broker, &topic).await, [0, 1, 2, 4, 5]);
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("one")));
}

#[tokio::test]
async fn a_topic_that_forgets_positions_is_refused() {
    let broker = shared_kafka().await;
    let topic = unique("forgetful");
    broker.create_topic(&format!("positions-{topic}"), 1, &[]).await;
    let failure = Process::new(broker, &topic).checkpoints.load().await.unwrap_err();
    assert!(failure.is_fatal() && failure.to_string().contains("cleanup.policy=compact"), "{failure}");
}

#[tokio::test]
async fn a_position_that_is_cleared_is_a_first_start() {
    let broker = shared_kafka().await;
    let topic = unique("cleared");
    let process = Process::new(broker, &topic);
    process.checkpoints.save(&position("one")).await.unwrap();
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("one")));
    process.checkpoints.clear().await.unwrap();
    assert_eq!(process.checkpoints.load().await.unwrap(), None);
}
