//! The same with Kafka as the sink. What arrived is what the topic holds, partition by partition: a key lies in one.

use crate::harness::{LIMIT, Scene, long, rate};
use crate::verdict::Verdict;
use rand::Rng;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use testbed::{
    Child, Committed, Kafka, KafkaOptions, Load, LoadOptions, Postgres, eventually, shared_kafka, shared_postgres,
    unique,
};
use tokio::time::sleep;

/// A database with an outbox and a topic for its only kind of event.
pub struct KafkaScene {
    pub scene: Scene,
    kind: String,
    pub topic: String,
}

impl KafkaScene {
    /// `servers`: where the program finds the broker; `more`: lines of the sink's table.
    pub async fn new(hint: &str, postgres: &Postgres, broker: &Kafka, servers: &str, more: &str) -> KafkaScene {
        let kind = unique("order").to_lowercase();
        let topic = format!("outbox.event.{kind}");
        broker.create_topic(&topic, 4, &[]).await;
        KafkaScene::without_topic(hint, postgres, servers, more, kind, topic).await
    }

    async fn without_topic(
        hint: &str,
        postgres: &Postgres,
        servers: &str,
        more: &str,
        kind: String,
        topic: String,
    ) -> KafkaScene {
        let database = postgres.database(hint).await;
        Load::prepare(postgres, &database).await;
        let sink = format!("type = \"kafka\"\nbootstrap_servers = [\"{servers}\"]\n{more}");
        KafkaScene { scene: Scene::with(database, unique(hint), postgres.port(), &sink), kind, topic }
    }

    pub fn load(&self, postgres: &Postgres, per_second: u32) -> Load {
        Load::start(postgres, &self.scene.database, LoadOptions { types: vec![self.kind.clone()], ..rate(per_second) })
    }

    /// Waits until everything committed lies in the topic, ends the program, counts what the topic holds then.
    pub async fn settle(&self, relay: Child, committed: Vec<Committed>, broker: &Kafka) -> Verdict {
        self.settle_as(&self.scene, relay, committed, broker).await
    }

    /// As [`KafkaScene::settle`]; `scene`: where the program runs.
    pub async fn settle_as(&self, scene: &Scene, relay: Child, committed: Vec<Committed>, broker: &Kafka) -> Verdict {
        let start = Instant::now();
        let mut complete = false;
        while !complete && start.elapsed() < LIMIT && relay.ended().is_none() {
            let arrived: HashSet<String> = self.arrived(broker).await.into_iter().collect();
            complete = committed.iter().all(|row| arrived.contains(&row.id.to_string()));
            sleep(Duration::from_millis(300)).await;
        }
        scene.end(relay, complete).await;
        Verdict::new(committed, self.arrived(broker).await)
    }

    async fn arrived(&self, broker: &Kafka) -> Vec<String> {
        let id = |record: &testbed::Record| record.header("id").unwrap_or("a message without an id").to_owned();
        broker.records(&self.topic).await.iter().map(id).collect()
    }
}

/// T8 T10 T11 T13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_kafka().await);
    let kafka = KafkaScene::new("kafka_kills", postgres, broker, &broker.bootstrap(), "").await;
    let load = kafka.load(postgres, 500);
    let kills = if long() { 200 } else { 20 };
    for _ in 0..kills {
        let relay = kafka.scene.relay();
        sleep(Duration::from_millis(rand::rng().random_range(100..900))).await;
        assert!(relay.ended().is_none(), "ended by itself:\n{}", relay.stderr().join("\n"));
        relay.kill9();
    }
    let relay = kafka.scene.relay();
    let verdict = kafka.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("Kafka: kill -9, {kills} times"), kills);
}

/// T35 T37 (what was acknowledged is there after the leader was killed)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_or_stays_away_is_waited_for() {
    let (postgres, broker) = tokio::join!(shared_postgres(), Kafka::start());
    let kafka = KafkaScene::new("kafka_away", postgres, &broker, &broker.bootstrap(), "").await;
    let load = kafka.load(postgres, 500);
    let relay = kafka.scene.relay();
    kafka.scene.published(500).await;

    broker.stop().await;
    broker.start_again().await;
    let before = kafka.scene.count("published").await;
    kafka.scene.published(before + 500).await;

    broker.kill9();
    let retrying = || async { kafka.scene.status().await.filter(|status| status["state"] == "retrying") };
    eventually(LIMIT, retrying).await;
    sleep(Duration::from_secs(if long() { 60 } else { 5 })).await;
    assert!(relay.ended().is_none(), "ended while the broker was away:\n{}", relay.stderr().join("\n"));
    broker.start_again().await;
    eventually(LIMIT, || async { kafka.scene.status().await.filter(|status| status["state"] == "streaming") }).await;

    let verdict = kafka.settle(relay, load.finish().await, &broker).await;
    verdict.judge("Kafka: broker restarted, and killed and away", 2);
}

/// T37: three brokers, two of which must have a record before it counts. The leader is killed right after it acknowledged; what
/// it acknowledged is there after the election, in order, and nothing twice: the relay lives on, its producer is idempotent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_leader_acknowledged_is_there_after_the_election() {
    let (postgres, brokers) = tokio::join!(shared_postgres(), Kafka::start_three());
    let kind = unique("order").to_lowercase();
    let topic = format!("outbox.event.{kind}");
    brokers[0].create_replicated_topic(&topic, 1, 3, &[("min.insync.replicas", "2")]).await;
    // several servers, the first of which does not answer
    let servers = ["127.0.0.1:1".to_owned()].into_iter().chain(brokers.iter().map(Kafka::bootstrap));
    let servers = servers.collect::<Vec<_>>().join("\", \"");
    let kafka = KafkaScene::without_topic("kafka_leader", postgres, &servers, "", kind, topic.clone()).await;
    let load = kafka.load(postgres, 500);
    let relay = kafka.scene.relay();
    kafka.scene.published(300).await;
    let kills = if long() { 12 } else { 3 };
    for _ in 0..kills {
        let leader = in_sync(&brokers, &topic, 3).await;
        let before = kafka.scene.count("published").await;
        kafka.scene.published(before + 1).await;
        brokers[leader - 1].kill9();
        let next = &brokers[leader % 3];
        let elected = || async { next.leader(&topic).await.filter(|(now, _)| *now != leader) };
        eventually(LIMIT, elected).await;
        let before = kafka.scene.count("published").await;
        kafka.scene.published(before + 300).await;
        brokers[leader - 1].start_again().await;
    }
    in_sync(&brokers, &topic, 3).await;
    assert!(relay.ended().is_none(), "ended:\n{}", relay.stderr().join("\n"));
    let verdict = kafka.settle(relay, load.finish().await, &brokers[0]).await;
    verdict.judge(&format!("Kafka: leader killed, {kills} times"), 0);
}

/// Waits until so many replicas are in sync; the leader's id.
async fn in_sync(brokers: &[Kafka], topic: &str, count: usize) -> usize {
    let full = || async { brokers[0].leader(topic).await.filter(|(_, replicas)| *replicas == count) };
    eventually(Duration::from_secs(60), full).await.0
}

/// T9 T34: connections reset after any number of bytes in either direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_middle_of_a_frame_lose_nothing() {
    let broker = Kafka::start_with(KafkaOptions { proxies: 1, ..KafkaOptions::default() });
    let (postgres, broker) = tokio::join!(shared_postgres(), broker);
    let proxy = broker.take_proxy();
    let kafka = KafkaScene::new("kafka_cuts", postgres, &broker, &proxy.addr().to_string(), "").await;
    let load = kafka.load(postgres, 500);
    let relay = kafka.scene.relay();
    kafka.scene.published(300).await;
    let cuts = if long() { 300 } else { 30 };
    for number in 0..cuts {
        let bytes = rand::rng().random_range(1..20_000);
        if number % 2 == 0 {
            proxy.cut_after_up(bytes)
        } else {
            proxy.cut_after_down(bytes / 100 + 1)
        }
        sleep(Duration::from_millis(rand::rng().random_range(50..400))).await;
    }
    proxy.restore();
    assert!(relay.ended().is_none(), "ended:\n{}", relay.stderr().join("\n"));
    let verdict = kafka.settle(relay, load.finish().await, &broker).await;
    verdict.judge(&format!("Kafka: {cuts} connections cut"), cuts);
}

/// T36 T55: an event for a topic that is not there holds the position, visibly, and goes out once there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_an_unknown_topic_holds_and_goes_out_once_there_is_one() {
    let (postgres, broker) = (shared_postgres().await, shared_kafka().await);
    let kind = unique("order").to_lowercase();
    let topic = format!("outbox.event.{kind}");
    let servers = broker.bootstrap();
    let kafka = KafkaScene::without_topic("kafka_topic", postgres, &servers, "", kind, topic.clone()).await;
    let load = kafka.load(postgres, 500);
    let client = postgres.client(&kafka.scene.database).await;
    let written = async || client.query_one("select count(*) from outbox", &[]).await.unwrap().get::<_, i64>(0);
    eventually(LIMIT, || async { (written().await >= 200).then_some(()) }).await;
    let relay = kafka.scene.relay();
    let held = eventually(LIMIT, || async { kafka.scene.status().await.filter(|s| s["state"] == "held") }).await;
    assert!(held["reason"].as_str().unwrap().contains(&format!("--create --topic {topic}")), "{held}");
    assert!(held["counts"]["rejected"].as_u64() >= Some(100), "{held}");
    broker.create_topic(&topic, 2, &[]).await;
    // all that were refused go out together: one by one they would take half a second each
    let start = Instant::now();
    eventually(LIMIT, || async { kafka.scene.status().await.filter(|s| s["state"] == "streaming") }).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let verdict = kafka.settle(relay, load.finish().await, broker).await;
    verdict.judge("Kafka: a topic that came late", 1);
}

/// The relay killed at random moments; consumers see only what was committed, and each event once. `TAILWATER_CRASH=long`
/// for 50 kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_under_kills_each_event_is_seen_once() {
    let (postgres, broker) = (shared_postgres().await, shared_kafka().await);
    let more = format!("exactly_once = true\ntransactional_id = \"{0}\"\noffsets_topic = \"{0}\"", unique("once"));
    let kafka = KafkaScene::new("kafka_once", postgres, broker, &broker.bootstrap(), &more).await;
    // a first start's snapshot cannot know the order of commits: nothing is there yet
    let mut relay = kafka.scene.relay();
    kafka.scene.streaming().await;
    let load = kafka.load(postgres, 300);
    let kills = if long() { 50 } else { 8 };
    for _ in 0..kills {
        kafka.scene.published(1).await;
        sleep(Duration::from_millis(rand::rng().random_range(0..800))).await;
        assert!(relay.ended().is_none(), "ended by itself:\n{}", relay.stderr().join("\n"));
        relay.kill9();
        relay = kafka.scene.relay();
    }
    let verdict = kafka.settle(relay, load.finish().await, broker).await;
    verdict.judge_exactly_once(&format!("Kafka, exactly once: kill -9, {kills} times"));
}
