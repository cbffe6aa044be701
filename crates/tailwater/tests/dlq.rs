//! `tailwater dlq` on real queues of a real RabbitMQ: looking does no harm, a replay loses nothing.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;
use testbed::{Child, Rabbit, WorkDir, eventually, shared_rabbitmq, unique};

/// An exchange, a queue bound to it, and the queue its rejected messages end in.
struct World {
    rabbit: Rabbit,
    exchange: String,
    work: String,
    dead: String,
}

fn table(all: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in all {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

impl World {
    async fn new(dead_arguments: &[(&str, AMQPValue)]) -> World {
        let rabbit = Rabbit::connect(shared_rabbitmq().await).await;
        let (exchange, work, dead) = (unique("dlq_events"), unique("dlq_work"), unique("dlq_dead"));
        rabbit.exchange(&exchange).await;
        rabbit.queue_with(&dead, table(dead_arguments)).await;
        let dead_letters = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))];
        rabbit.queue_with(&work, table(&dead_letters)).await;
        rabbit.bind(&work, &exchange, "order.*").await;
        World { rabbit, exchange, work, dead }
    }

    async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &str) {
        let options = BasicPublishOptions::default();
        let channel = self.rabbit.channel();
        let sent = channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties).await;
        sent.unwrap().await.unwrap();
    }

    /// Messages `m0`, `m1`, … that a consumer has rejected.
    async fn reject(&self, count: usize) {
        for number in 0..count {
            let properties = BasicProperties::default()
                .with_message_id(format!("m{number}").into())
                .with_type("order.placed".into())
                .with_content_type("application/json".into())
                .with_timestamp(jiff::Timestamp::now().as_second().unsigned_abs())
                .with_headers(table(&[("tenant", AMQPValue::LongInt(4))]));
            let key = if number % 2 == 0 { "order.placed" } else { "order.paid" };
            self.publish(&self.exchange, key, properties, &json!({ "number": number }).to_string()).await;
        }
        for _ in 0..count {
            let message = eventually(Duration::from_secs(10), || async {
                self.rabbit.channel().basic_get(self.work.as_str().into(), BasicGetOptions::default()).await.unwrap()
            })
            .await;
            message.nack(BasicNackOptions { requeue: false, multiple: false }).await.unwrap();
        }
        self.until(&self.dead, count).await;
    }

    async fn until(&self, queue: &str, count: usize) {
        eventually(Duration::from_secs(20), || async {
            let seen = self.rabbit.count(queue).await as usize;
            testbed::note(seen);
            (seen == count).then_some(())
        })
        .await;
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.arg("dlq").args(arguments).args(["--queue", &self.dead]).args(["--log-level", "warn"]);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        command.env("TAILWATER_FROM", shared_rabbitmq().await.url());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    /// Must end with `code`; what it said on stdout.
    async fn dlq(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (also, ended) = (String::from_utf8_lossy(&output.stderr), output.status.code());
        assert_eq!(ended, Some(code), "{arguments:?}\n{said}\n{also}");
        println!("$ tailwater dlq {}\n{said}{also}", arguments.join(" "));
        said
    }

    async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.dlq(code, &[arguments, &["--json"]].concat()).await).unwrap()
    }

    async fn ids(&self, queue: &str) -> Vec<String> {
        self.rabbit.drain(queue).await.into_iter().map(|message| message.message_id.unwrap()).collect()
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m{number}")).collect()
}

fn ids_of(list: &Value) -> Vec<&str> {
    list["letters"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_counts_by_reason_and_shows_no_payload() {
    let world = World::new(&[]).await;
    world.reject(5).await;
    let refused = table(&[
        ("x-tailwater-reason", text("no queue is bound for it")),
        ("x-tailwater-original-exchange", text(&world.exchange)),
        ("x-tailwater-original-routing-key", text("invoice.sent")),
    ]);
    let refused = BasicProperties::default().with_message_id("relay".into()).with_headers(refused);
    world.publish("", &world.dead, refused, "secret payload").await;
    world.until(&world.dead, 6).await;

    let said = world.dlq(0, &["list"]).await;
    assert!(said.contains("6 dead letters") && said.contains(&format!("rejected in {}", world.work)), "{said}");
    assert!(
        said.contains("no queue is bound for it") && !said.contains("secret") && !said.contains("number"),
        "{said}"
    );
    let all = world.json(0, &["list"]).await;
    assert_eq!(
        (&all["letters_total"], &all["matching"], &all["reasons"][0]["count"]),
        (&json!(6), &json!(6), &json!(5))
    );
    let paid = world.json(0, &["list", "--key", "order.paid", "--newer-than", "1h", "--type", "order.placed"]).await;
    assert_eq!(ids_of(&paid), ["m1", "m3"]);
    assert_eq!(ids_of(&world.json(0, &["list", "--reason", "BOUND"]).await), ["relay"]);
    assert_eq!(world.json(0, &["list", "--older-than", "1h"]).await["matching"], 0);

    let shown = world.dlq(0, &["show", "m3"]).await;
    assert!(
        shown.contains(r#"{"number":3}"#) && shown.contains("tenant: 4") && shown.contains("order.paid"),
        "{shown}"
    );
    assert_eq!(world.dlq(0, &["show", "m3", "--body-only"]).await, r#"{"number":3}"#);
    assert_eq!(world.json(0, &["show", "#6"]).await["body"], "secret payload");
    world.dlq(3, &["show", "nobody"]).await;
    assert_eq!(world.ids(&world.dead).await, ["m0", "m1", "m2", "m3", "m4", "relay"], "everything is where it was");
}

/// Looking must not use up a quorum queue's patience: beyond its delivery limit it drops a message.
#[tokio::test]
async fn looking_again_and_again_neither_drops_nor_reorders() {
    let quorum = ("x-queue-type", text("quorum"));
    let limit = ("x-delivery-limit", AMQPValue::LongInt(12));
    for arguments in [vec![], vec![quorum.clone()], vec![quorum, limit]] {
        let world = World::new(&arguments).await;
        world.reject(6).await;
        for _ in 0..14 {
            let all = world.json(0, &["list"]).await;
            assert_eq!(ids_of(&all), numbered(6), "{arguments:?}");
            world.until(&world.dead, 6).await;
        }
        world.dlq(0, &["replay", "--id", "m2"]).await; // with the rest held and put back
        world.until(&world.dead, 5).await;
        assert_eq!(world.ids(&world.dead).await, ["m0", "m1", "m3", "m4", "m5"], "{arguments:?}");
        assert_eq!(world.ids(&world.work).await, ["m2"]);
    }
}

#[tokio::test]
async fn a_letter_is_mended_and_replayed_to_where_it_came_from() {
    let world = World::new(&[]).await;
    world.reject(3).await;
    let (dir, other) = (WorkDir::new(), unique("dlq_other"));
    let body = dir.path().join("mended.json");
    world.rabbit.queue(&other, &world.exchange, &["order.paid"]).await;
    std::fs::write(&body, "not JSON").unwrap();
    let mended = ["replay", "--id", "m1", "--body", body.to_str().unwrap()];
    let kept = world.json(1, &mended).await;
    assert!(kept["kept"][0]["why"].as_str().unwrap().contains("not JSON"), "{kept}");
    std::fs::write(&body, r#"{"number": 1, "mended": true}"#).unwrap();
    let dry = world.json(0, &[&mended[..], &["--dry-run"]].concat()).await;
    assert_eq!((&dry["replayed"], dry["chosen"][0]["id"].as_str()), (&json!(0), Some("m1")));
    assert_eq!(world.json(0, &mended).await["replayed"], 1);

    let message = world.rabbit.take(&world.work, 1, Duration::from_secs(10)).await.remove(0);
    assert_eq!((&*message.exchange, &*message.routing_key), (&*world.exchange, "order.paid"));
    assert_eq!(message.body, br#"{"number": 1, "mended": true}"#);
    assert_eq!((message.message_id.as_deref(), message.kind.as_deref()), (Some("m1"), Some("order.placed")));
    assert_eq!((message.content_type.as_deref(), message.delivery_mode), (Some("application/json"), Some(2)));
    assert_eq!(message.header("tenant").as_deref(), Some("4"));
    assert!(message.headers.contains_key("x-death"), "it says that it has died before");
    world.until(&other, 1).await; // the exchange serves everybody who is bound
    world.dlq(0, &["replay", "--all", "--only-queue"]).await;
    assert_eq!(world.ids(&world.work).await, ["m0", "m2"]);
    assert_eq!(world.rabbit.count(&other).await, 1, "the others were not bothered");
    assert_eq!(world.rabbit.count(&world.dead).await, 0);
}

#[tokio::test]
async fn what_the_relay_gave_up_goes_where_it_was_to_go_and_without_its_marks() {
    let world = World::new(&[]).await;
    let letter = |id: &str, key: &str, dropped: bool| {
        let headers = table(&[
            ("x-tailwater-reason", text("no queue")),
            ("x-tailwater-original-exchange", text(&world.exchange)),
            ("x-tailwater-original-routing-key", text(key)),
            ("x-tailwater-headers-dropped", AMQPValue::Boolean(dropped)),
        ]);
        BasicProperties::default().with_message_id(id.into()).with_headers(headers)
    };
    let whole = letter("whole", "order.placed", false);
    let headers = whole.headers().clone().unwrap();
    let mut without_mark = FieldTable::default();
    for (name, value) in headers.inner().iter().filter(|(name, _)| name.as_str() != "x-tailwater-headers-dropped") {
        without_mark.insert(name.clone(), value.clone());
    }
    world.publish("", &world.dead, whole.with_headers(without_mark), "1").await;
    world.publish("", &world.dead, letter("incomplete", "order.placed", true), "2").await;
    world.publish("", &world.dead, BasicProperties::default().with_message_id("lost".into()), "3").await;
    world.until(&world.dead, 3).await;
    let outcome = world.json(1, &["replay", "--all"]).await;
    assert_eq!((&outcome["replayed"], outcome["kept"].as_array().unwrap().len()), (&json!(1), 2), "{outcome}");
    let message = world.rabbit.take(&world.work, 1, Duration::from_secs(10)).await.remove(0);
    assert_eq!((&*message.routing_key, message.headers.inner().len()), ("order.placed", 0));
    world.dlq(0, &["replay", "--id", "incomplete", "--force"]).await;
    world.dlq(0, &["replay", "--id", "lost", "--exchange", &world.exchange, "--routing-key", "order.found"]).await;
    assert_eq!(world.ids(&world.work).await, ["incomplete", "lost"]);
}

/// What nobody would receive stays: an unroutable message, a missing exchange.
#[tokio::test]
async fn a_letter_that_cannot_be_published_stays_and_says_why() {
    let world = World::new(&[]).await;
    world.reject(4).await;
    let (exchange, key) = (world.exchange.as_str(), "order.paid");
    world.rabbit.unbind(&world.work, exchange, "order.*").await;
    world.rabbit.bind(&world.work, exchange, "order.placed").await;
    let outcome = world.json(1, &["replay", "--all"]).await;
    assert_eq!((&outcome["replayed"], outcome["kept"].as_array().unwrap().len()), (&json!(2), 2), "{outcome}");
    assert!(outcome["kept"][0]["why"].as_str().unwrap().contains("no queue is bound"), "{outcome}");
    let nowhere = world.json(1, &["replay", "--all", "--exchange", "no_such_exchange"]).await;
    assert!(nowhere["kept"][1]["why"].as_str().unwrap().contains("no_such_exchange"), "{nowhere}");
    world.rabbit.bind(&world.work, exchange, key).await;
    world.dlq(0, &["replay", "--all"]).await;
    assert_eq!(world.ids(&world.work).await, ["m0", "m2", "m1", "m3"]);
}

/// The rate is between two, so the first goes at once.
#[tokio::test]
async fn a_replay_keeps_to_its_rate() {
    let world = World::new(&[]).await;
    world.reject(3).await;
    let start = std::time::Instant::now();
    world.dlq(0, &["replay", "--all", "--rate", "1/s"]).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "three within {:?}", start.elapsed());
    assert_eq!(world.ids(&world.work).await, numbered(3));
}

/// A replay that is killed at any moment gives duplicates with the same message id, and loses nothing.
#[tokio::test]
async fn a_killed_replay_loses_nothing() {
    let world = World::new(&[]).await;
    world.reject(150).await;
    let mut delivered = Vec::new();
    for kill_after in [1, 20, 50] {
        let mut command = world.command(&["replay", "--all", "--rate", "400/s"]);
        command.env("TAILWATER_FROM", shared_rabbitmq().await.url());
        let child = Child::start(command);
        eventually(Duration::from_secs(20), || async {
            (world.rabbit.count(&world.work).await >= kill_after).then_some(())
        })
        .await;
        child.kill9();
        drop(child);
        delivered.extend(world.ids(&world.work).await);
        // What was held comes back when the broker has noticed.
        let missing = 150 - delivered.iter().collect::<BTreeSet<_>>().len() as u32;
        eventually(Duration::from_secs(20), || async {
            (world.rabbit.count(&world.dead).await >= missing).then_some(())
        })
        .await;
    }
    world.dlq(0, &["replay", "--all"]).await;
    delivered.extend(world.ids(&world.work).await);
    let distinct: BTreeSet<_> = delivered.iter().cloned().collect();
    println!("duplicates = {}", delivered.len() - distinct.len());
    assert_eq!(distinct, numbered(150).into_iter().collect());
    assert_eq!(world.rabbit.count(&world.dead).await, 0);
}

/// T43: an inbox that has forgotten an event takes its replay for a new one.
#[tokio::test]
async fn what_is_older_than_the_inbox_remembers_is_not_replayed_without_force() {
    let world = World::new(&[]).await;
    world.reject(1).await;
    let old = jiff::Timestamp::now().as_second() - 10 * 86_400;
    let marks = |id: &str| {
        let headers = table(&[
            ("x-tailwater-reason", text("no queue")),
            ("x-tailwater-original-exchange", text(&world.exchange)),
            ("x-tailwater-original-routing-key", text("order.placed")),
        ]);
        BasicProperties::default().with_message_id(id.into()).with_headers(headers)
    };
    world.publish("", &world.dead, marks("ageless"), "1").await;
    world.publish("", &world.dead, marks("old").with_timestamp(old.unsigned_abs()), "2").await;
    world.until(&world.dead, 3).await;
    let warned = world.json(0, &["replay", "--id", "old", "--dry-run"]).await;
    assert!(warned["notes"][0].as_str().unwrap().contains("10d old"), "{warned}");
    let refused = world.json(1, &["replay", "--all", "--inbox-retention", "7d"]).await;
    assert_eq!((&refused["replayed"], refused["kept"].as_array().unwrap().len()), (&json!(1), 2), "{refused}");
    assert_eq!(world.ids(&world.work).await, ["m0"]);
    world.dlq(0, &["replay", "--id", "old", "--inbox-retention", "14d"]).await;
    world.dlq(0, &["replay", "--all", "--inbox-retention", "7d", "--force"]).await;
    assert_eq!(world.ids(&world.work).await, ["old", "ageless"]);
}

#[tokio::test]
async fn a_purge_removes_what_was_asked_for_and_only_if_it_is_meant() {
    let world = World::new(&[]).await;
    world.reject(6).await;
    world.dlq(2, &["purge"]).await;
    world.dlq(2, &["purge", "--all"]).await;
    world.dlq(2, &["purge", "--all", "--id", "m1", "--yes"]).await;
    world.dlq(0, &["purge", "--all", "--dry-run"]).await;
    assert_eq!(world.json(0, &["purge", "--key", "order.paid", "--yes"]).await["removed"], 3);
    assert_eq!(world.ids(&world.dead).await, ["m0", "m2", "m4"]);
}

#[tokio::test]
async fn a_place_that_is_not_there_is_named() {
    let world = World::new(&[("x-queue-type", text("stream"))]).await;
    world.publish("", &world.dead, BasicProperties::default(), "1").await;
    world.until(&world.dead, 1).await;
    let stream = world.run(&["list"]).await;
    assert!(String::from_utf8_lossy(&stream.stderr).contains("is a stream"), "{stream:?}");
    let nowhere = World { dead: "no_such_queue".into(), ..world }.run(&["list"]).await;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(nowhere.status.code() == Some(1) && said.contains("no queue no_such_queue"), "{said}");
}
