//! `tailwater dlq` on a topic of a real Kafka broker.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use testbed::{Child, Kafka, WorkDir, eventually, shared_kafka, unique};

/// A topic, and the topic of its dead letters with two partitions.
struct World {
    kafka: &'static Kafka,
    producer: FutureProducer,
    work: String,
    dead: String,
}

impl World {
    async fn new() -> World {
        let kafka = shared_kafka().await;
        let (work, dead) = (unique("dlq-work"), unique("dlq-dead"));
        kafka.create_topic(&work, 3, &[]).await;
        kafka.create_topic(&dead, 2, &[]).await;
        World { kafka, producer: kafka.client().create().unwrap(), work, dead }
    }

    /// As the relay writes it: `m0`, `m1`, … in turn to both partitions.
    async fn letters(&self, count: usize) {
        for number in 0..count {
            let (id, key, body) = (format!("m{number}"), format!("k{number}"), json!({ "number": number }).to_string());
            let header = |key, value| Header { key, value: Some(value) };
            let headers = OwnedHeaders::new()
                .insert(header("tenant", "4"))
                .insert(header("id", &id))
                .insert(header("x-tailwater-reason", "too large"))
                .insert(header("x-tailwater-original-topic", &self.work));
            let partition = i32::try_from(number % 2).unwrap();
            let record = FutureRecord::to(&self.dead).key(&key).payload(&body).headers(headers).partition(partition);
            self.producer.send(record, Duration::from_secs(20)).await.unwrap();
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.arg("dlq").args(arguments).args(["--topic", &self.dead, "--log-level", "warn"]);
        command.env("TAILWATER_FROM", format!("kafka://{}", self.kafka.bootstrap()));
        command
    }

    async fn dlq(&self, code: i32, arguments: &[&str]) -> String {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.dlq(code, &[arguments, &["--json"]].concat()).await).unwrap()
    }

    async fn listed(&self) -> BTreeSet<String> {
        let all = self.json(0, &["list"]).await;
        all["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Ids of the records in the topic they came from.
    async fn arrived(&self) -> Vec<String> {
        self.kafka.records(&self.work).await.iter().map(|record| record.header("id").unwrap().to_owned()).collect()
    }
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("m{number}")).collect()
}

#[tokio::test]
async fn a_letter_is_shown_mended_and_replayed_and_is_no_letter_any_more() {
    let world = World::new().await;
    world.letters(6).await;
    let all = world.json(0, &["list"]).await;
    assert_eq!((&all["letters_total"], &all["reasons"][0]["reason"]), (&json!(6), &json!("too large")));
    assert_eq!(world.json(0, &["list", "--key", "k3"]).await["matching"], 1);
    assert!(world.dlq(0, &["show", "m3"]).await.contains(r#"{"number":3}"#));
    assert_eq!(world.json(0, &["show", "1:1"]).await["id"], "m3");
    world.dlq(3, &["show", "nobody"]).await;
    assert_eq!(world.listed().await, ids(0..6), "looking changes nothing");

    let dir = WorkDir::new();
    let body = dir.path().join("mended.json");
    std::fs::write(&body, "{}").unwrap();
    assert_eq!(world.json(0, &["replay", "--id", "m3", "--body", body.to_str().unwrap()]).await["replayed"], 1);
    let record = world.kafka.records(&world.work).await.remove(0);
    assert_eq!((record.key.as_deref(), record.text(), record.header("tenant")), (Some(&b"k3"[..]), "{}", Some("4")));
    assert_eq!((record.header("id"), record.header("x-tailwater-reason")), (Some("m3"), None));
    assert_eq!(world.listed().await, ids([0, 1, 2, 4, 5]), "remembered although an older one is left");
    assert_eq!(world.kafka.records(&world.dead).await.len(), 6, "the topic itself is untouched");
    world.dlq(0, &["replay", "--all"]).await;
    assert_eq!(world.arrived().await.into_iter().collect::<BTreeSet<_>>(), ids(0..6));
    assert!(world.listed().await.is_empty());
    world.letters(1).await;
    assert_eq!(world.listed().await, ids([0]), "a new letter is one");
}

#[tokio::test]
async fn a_purge_deletes_what_is_settled_at_the_beginning() {
    let world = World::new().await;
    world.letters(6).await; // 0, 2, 4 in partition 0; 1, 3, 5 in partition 1
    let purged = world.json(0, &["purge", "--id", "m0", "--id", "m3", "--yes"]).await;
    assert_eq!(purged["removed"], 2, "{purged}");
    assert_eq!(world.listed().await, ids([1, 2, 4, 5]));
    let left: BTreeSet<String> =
        world.kafka.records(&world.dead).await.iter().map(|r| r.header("id").unwrap().to_owned()).collect();
    assert_eq!(left, ids([1, 2, 3, 4, 5]), "m3 is settled, and lies behind m1");
    world.dlq(0, &["purge", "--all", "--yes"]).await;
    assert!(world.kafka.records(&world.dead).await.is_empty());
}

#[tokio::test]
async fn a_replay_keeps_to_its_rate() {
    let world = World::new().await;
    world.letters(3).await;
    let start = std::time::Instant::now();
    world.dlq(0, &["replay", "--all", "--rate", "1/s"]).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "three within {:?}", start.elapsed());
    assert_eq!(world.arrived().await.into_iter().collect::<BTreeSet<_>>(), ids(0..3));
}

#[tokio::test]
async fn a_letter_that_no_topic_takes_stays_and_says_why() {
    let world = World::new().await;
    world.letters(2).await;
    let outcome = world.json(1, &["replay", "--id", "m0", "--to-topic", "not a topic"]).await;
    assert!(outcome["kept"][0]["why"].as_str().unwrap().contains("does not take it"), "{outcome}");
    let record: FutureRecord<'_, str, str> = FutureRecord::to(&world.dead).payload("found on the street").partition(0);
    world.producer.send(record, Duration::from_secs(20)).await.unwrap();
    let outcome = world.json(1, &["replay", "--all"]).await;
    assert_eq!((&outcome["replayed"], &outcome["kept"][0]["id"]), (&json!(2), &json!("0:1")), "{outcome}");
    let nowhere = World { dead: "no-such-topic".into(), ..world };
    nowhere.dlq(1, &["list"]).await;
}

/// A replay that is killed at any moment gives duplicates with the same id, and loses nothing.
#[tokio::test]
async fn a_killed_replay_loses_nothing() {
    let world = World::new().await;
    world.letters(60).await;
    for kill_after in [1, 20, 40] {
        let child = Child::start(world.command(&["replay", "--all", "--rate", "300/s"]));
        eventually(Duration::from_secs(30), || async { (world.arrived().await.len() >= kill_after).then_some(()) })
            .await;
        child.kill9();
    }
    world.dlq(0, &["replay", "--all"]).await;
    let arrived = world.arrived().await;
    let duplicates = arrived.len() - 60;
    println!("duplicates = {duplicates}");
    assert!(duplicates <= 3, "one a kill at most: {duplicates}");
    assert_eq!(arrived.into_iter().collect::<BTreeSet<_>>(), ids(0..60));
    assert!(world.listed().await.is_empty());
}

/// A pipeline's configuration names the cluster and the topic; letters of Kafka Connect say in their own words where they are from.
#[tokio::test]
async fn the_configuration_names_the_topic_and_letters_of_kafka_connect_are_understood() {
    let world = World::new().await;
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new()
        .insert(header("id", "c1"))
        .insert(header("__connect.errors.topic", world.work.as_str()))
        .insert(header("__connect.errors.partition", "2"))
        .insert(header("__connect.errors.exception.message", "no such column"));
    // No key: it goes back to the partition it came from.
    let record: FutureRecord<'_, str, str> = FutureRecord::to(&world.dead).payload("{}").headers(headers);
    world.producer.send(record, Duration::from_secs(20)).await.unwrap();

    let dir = WorkDir::new();
    let file = dir.path().join("orders.toml");
    let text = format!(
        "[pipelines.orders.source]\ntype = \"postgres\"\nurl = \"postgres://nobody@127.0.0.1:1/none\"\nslot = \"s\"\n\
         publication = \"p\"\ntable = \"outbox\"\n[pipelines.orders.sink]\ntype = \"kafka\"\n\
         bootstrap_servers = [\"{}\"]\ndead_letter_topic = \"{}\"\n",
        world.kafka.bootstrap(),
        world.dead
    );
    std::fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.arg("dlq").args(arguments).arg("--config").arg(&file).env_remove("TAILWATER_FROM");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = run(&["list"]);
    assert!(listed.contains("no such column") && listed.contains("c1"), "{listed}");
    run(&["replay", "--reason", "column"]);
    let record = world.kafka.records(&world.work).await.remove(0);
    assert_eq!((record.partition, record.header("id"), record.headers.len()), (2, Some("c1"), 1));
}
