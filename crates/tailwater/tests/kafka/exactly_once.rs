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
    assert_eq!(values(broker, &topic).await, (0..200).collect::<Vec<_>>());
    assert_eq!(process.checkpoints.load().await.unwrap(), Some(position("two")));
}
