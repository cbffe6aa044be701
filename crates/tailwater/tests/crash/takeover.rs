//! T50: the same configuration on two hosts, each with a state directory of its own. One holds the pipeline, the other stands
//! by and says why; after `kill -9` of the holder it goes on within 5 s, with all guarantees of a single process.

use crate::harness::{LIMIT, Scene, long, rate};
#[cfg(feature = "kafka")]
use crate::kafka::KafkaScene;
use std::time::{Duration, Instant};
use testbed::{Child, Load, eventually, shared_postgres, shared_rabbitmq};

/// From `kill -9` to the first event of the other one, in most rounds: a round in which the machine is busy proves nothing.
const TAKEOVER: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;

/// Two processes; the first of them holds the pipeline.
struct Pair<'a> {
    holder: (&'a Scene, Child),
    standby: (&'a Scene, Child),
}

impl<'a> Pair<'a> {
    async fn start(first: &'a Scene, second: &'a Scene) -> Pair<'a> {
        let holder = (first, first.relay());
        first.streaming().await;
        let standby = (second, second.relay());
        stands_by(second).await;
        Pair { holder, standby }
    }

    /// Kills the holder, and says how long the other one took to publish; then the killed one stands by.
    async fn take_over(self) -> (Pair<'a>, Duration) {
        let ((killed, process), heir) = (self.holder, self.standby);
        killed.published(200).await;
        assert_eq!(heir.0.count("published").await, 0, "both publish");
        let start = Instant::now();
        process.kill9();
        heir.0.published(1).await;
        let took = start.elapsed();
        let again = killed.relay();
        stands_by(killed).await;
        (Pair { holder: heir, standby: (killed, again) }, took)
    }
}

async fn stands_by(scene: &Scene) {
    let standby = || async { scene.status().await.filter(|status| status["state"] == "standby") };
    let status = eventually(LIMIT, standby).await;
    let holder = status["holder"].as_str().unwrap_or_default();
    assert!(holder.contains("pid ") && holder.contains("application tailwater"), "{status}");
    assert_eq!(status["ready"], true, "{status}");
}

/// The story for any sink: who holds the pipeline at its end, and how often the holder was killed.
async fn story<'a>(first: &'a Scene, second: &'a Scene, sink: &str) -> ((&'a Scene, Child), usize) {
    let mut pair = Pair::start(first, second).await;
    let rounds = if long() { ROUNDS * 10 } else { ROUNDS };
    let mut times = Vec::new();
    for round in 0..rounds {
        let (next, took) = pair.take_over().await;
        pair = next;
        println!("{sink}: takeover {round} within {took:?}");
        times.push(took);
    }
    times.sort();
    assert!(times[rounds / 2] < TAKEOVER, "{times:?}");
    let (scene, standby) = pair.standby;
    scene.end(standby, true).await;
    (pair.holder, rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_within_five_seconds_with_rabbitmq() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let first = Scene::new("takeover", postgres, broker).await;
    let second = first.twin();
    let load = Load::start(postgres, &first.database, rate(500));
    let ((scene, relay), kills) = story(&first, &second, "RabbitMQ").await;
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("RabbitMQ: {kills} takeovers"), kills);
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_within_five_seconds_with_kafka() {
    let (postgres, broker) = (shared_postgres().await, testbed::shared_kafka().await);
    let kafka = KafkaScene::new("kafka_takeover", postgres, broker, &broker.bootstrap(), "").await;
    let second = kafka.scene.twin();
    let load = kafka.load(postgres, 500);
    let ((scene, relay), kills) = story(&kafka.scene, &second, "Kafka").await;
    let verdict = kafka.settle_as(scene, relay, load.finish().await, broker).await;
    verdict.judge(&format!("Kafka: {kills} takeovers"), kills);
}

/// The position lies in Kafka, so another host goes on exactly where the killed one was.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_takes_over_repeats_nothing_with_kafka_exactly_once() {
    let (postgres, broker) = (shared_postgres().await, testbed::shared_kafka().await);
    let more =
        format!("exactly_once = true\ntransactional_id = \"{0}\"\noffsets_topic = \"{0}\"", testbed::unique("two"));
    let kafka = KafkaScene::new("kafka_takeover_once", postgres, broker, &broker.bootstrap(), &more).await;
    let second = kafka.scene.twin();
    let before = kafka.scene.relay(); // a first start's snapshot cannot know the order of commits: nothing is there yet
    kafka.scene.streaming().await;
    kafka.scene.end(before, true).await;
    let load = kafka.load(postgres, 300);
    let ((scene, relay), kills) = story(&kafka.scene, &second, "Kafka, exactly once").await;
    let verdict = kafka.settle_as(scene, relay, load.finish().await, broker).await;
    verdict.judge_exactly_once(&format!("Kafka, exactly once: {kills} takeovers"));
}
