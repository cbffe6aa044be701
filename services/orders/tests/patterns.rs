//! Each pattern from the request to the consumers' effects, with real servers and the real programs: two order services, two
//! pollers, a connect process, inventory and notification. One stack for all tests of this file.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::Offset;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use testbed::orders::{Outcome, Ports, Stack};
use testbed::{Record, http_get};
use tokio::sync::RwLock;
use uuid::Uuid;

/// Name in paths, topic.
const PATTERNS: [(&str, &str); 3] = [
    ("transactional-outbox", "Orders_1"),
    ("listen-to-yourself", "Orders_2"),
    ("transactional-log-tailing", "Orders_3"),
];

/// The stack, and one runtime that outlives each test: the servers' connections live in it.
fn with_stack(test: impl AsyncFnOnce(&RwLock<Stack>)) {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> =
        std::sync::LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    static STACK: tokio::sync::OnceCell<RwLock<Stack>> = tokio::sync::OnceCell::const_new();
    RUNTIME.block_on(async {
        let start = async || {
            let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orders-logs");
            RwLock::new(Stack::start(Ports::any(), &logs).await.unwrap())
        };
        test(STACK.get_or_init(start).await).await;
    });
}

fn order(number: usize) -> (Uuid, Value) {
    let (id, item) = (Uuid::now_v7(), ["hat", "scarf", "gloves", "boots"][number % 4]);
    (id, json!({ "id": id, "customer": format!("customer {number}"), "item": item, "quantity": 1 + number % 3 }))
}

async fn count(stack: &Stack, table: &str, column: &str, id: Uuid) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE {column} = $1");
    stack.db.query_one(&sql, &[&id]).await.unwrap().get(0)
}

/// Rows of this order: in `orders`, `reservation`, `notification`.
async fn effects(stack: &Stack, id: Uuid) -> [i64; 3] {
    [
        count(stack, "orders", "id", id).await,
        count(stack, "reservation", "order_id", id).await,
        count(stack, "notification", "order_id", id).await,
    ]
}

async fn until_effects(stack: &Stack, ids: &[Uuid]) {
    let done = async |stack: &Stack| -> Outcome<bool> {
        for id in ids {
            if effects(stack, *id).await.contains(&0) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    stack.wait("every order has its effects", done).await.unwrap();
}

async fn records(stack: &Stack, topic: &str, id: Uuid) -> Vec<Record> {
    let mut records = stack.kafka.records(topic).await;
    records.retain(|record| record.header("id") == Some(&id.to_string()));
    records
}

/// Until the group has committed the end of each partition: it has read everything.
async fn until_read(stack: &Stack, group: &str, topic: &'static str) {
    let mut config = stack.kafka.client();
    config.set("group.id", group);
    let read = async |_: &Stack| -> Outcome<bool> {
        let consumer: BaseConsumer = config.create()?;
        Ok(tokio::task::spawn_blocking(move || has_read(&consumer, topic)).await??)
    };
    stack.wait("the group has read everything", read).await.unwrap();
}

fn has_read(consumer: &BaseConsumer, topic: &str) -> Result<bool, KafkaError> {
    let limit = Duration::from_secs(10);
    let mut places = TopicPartitionList::new();
    for partition in 0..3 {
        places.add_partition(topic, partition);
    }
    for place in consumer.committed_offsets(places, limit)?.elements() {
        let (_, end) = consumer.fetch_watermarks(topic, place.partition(), limit)?;
        if end > 0 && place.offset() != Offset::Offset(end) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn produce(stack: &Stack, topic: &str, id: Option<&str>, value: &[u8]) {
    let producer: FutureProducer = stack.kafka.client().create().unwrap();
    let headers =
        id.map_or_else(OwnedHeaders::new, |id| OwnedHeaders::new().insert(Header { key: "id", value: Some(id) }));
    let record = FutureRecord::to(topic).key(id.unwrap_or("none")).payload(value).headers(headers);
    producer.send(record, Duration::from_secs(10)).await.unwrap();
}

#[test]
fn in_each_pattern_an_order_has_its_effect_once_at_both_consumers() {
    with_stack(async |stack| {
        let stack = &stack.read().await;
        for (number, (pattern, topic)) in PATTERNS.into_iter().enumerate() {
            let (id, body) = order(number);
            let status = stack.place(number, pattern, &body).await.unwrap();
            assert_eq!(status, if pattern == "listen-to-yourself" { 202 } else { 201 }, "{pattern}");
            until_effects(stack, &[id]).await;
            assert_eq!(effects(stack, id).await, [1, 1, 1], "{pattern}");
            let shown = http_get(stack.ports.services[1], &format!("/orders/{id}"), None).await.unwrap();
            assert_eq!((shown.status, &shown.json()["pattern"]), (200, &json!(pattern)));

            let records = records(stack, topic, id).await;
            assert!(!records.is_empty(), "{pattern}");
            assert_eq!(records[0].key.as_deref(), Some(id.to_string().as_bytes()), "{pattern}");
            let value: Value = serde_json::from_str(records[0].text()).unwrap();
            assert_eq!((&value["order_id"], &value["quantity"]), (&json!(id), &body["quantity"]), "{pattern}");
        }
    });
}

#[test]
fn setting_up_a_second_time_is_harmless() {
    with_stack(async |stack| {
        let setup = include_str!("../../../examples/orders/setup.sql");
        stack.read().await.db.batch_execute(setup).await.unwrap();
    });
}

#[test]
fn an_event_that_comes_again_has_no_second_effect() {
    with_stack(async |stack| {
        let stack = &stack.read().await;
        for (number, (pattern, topic)) in PATTERNS.into_iter().enumerate() {
            let (id, body) = order(number);
            stack.place(number, pattern, &body).await.unwrap();
            until_effects(stack, &[id]).await;
            let value = records(stack, topic, id).await.remove(0).value.unwrap();
            for _ in 0..3 {
                produce(stack, topic, Some(&id.to_string()), &value).await;
            }
            let groups: &[&str] = if pattern == "listen-to-yourself" {
                &["orders", "inventory", "notification"]
            } else {
                &["inventory", "notification"]
            };
            for group in groups {
                until_read(stack, group, topic).await;
            }
            assert!(records(stack, topic, id).await.len() >= 4);
            assert_eq!(effects(stack, id).await, [1, 1, 1], "{pattern}");
        }
    });
}

#[test]
fn what_cannot_be_handled_goes_to_the_dead_letters_and_holds_up_nobody() {
    with_stack(async |stack| {
        let stack = &stack.read().await;
        let bad = Uuid::now_v7().to_string();
        produce(stack, "Orders_1", Some(&bad), b"{\"order\": 1}").await;
        produce(stack, "Orders_1", None, b"{}").await;
        let (id, body) = order(1);
        stack.place(0, "transactional-outbox", &body).await.unwrap();
        until_effects(stack, &[id]).await;
        for group in ["inventory", "notification"] {
            until_read(stack, group, "Orders_1").await;
        }
        let letters = stack.kafka.records("Orders_1.dead-letters").await;
        let reasons = |id: Option<&str>| -> Vec<&str> {
            letters
                .iter()
                .filter(|letter| letter.header("id") == id)
                .filter_map(|letter| letter.header("x-reason"))
                .collect()
        };
        assert_eq!(reasons(Some(&bad)), ["no order.placed: line 1, column 12"; 2], "once by each consumer");
        assert_eq!(reasons(None), ["a record without the header `id`"; 2]);
    });
}

/// The idempotency table remembers the event, not the order: an order that is gone is not placed again.
#[test]
fn an_order_that_was_removed_does_not_come_back_with_its_event() {
    with_stack(async |stack| {
        let stack = &stack.read().await;
        let (id, body) = order(2);
        stack.place(0, "listen-to-yourself", &body).await.unwrap();
        until_effects(stack, &[id]).await;
        stack.db.execute("DELETE FROM orders WHERE id = $1", &[&id]).await.unwrap();
        let value = records(stack, "Orders_2", id).await.remove(0).value.unwrap();
        produce(stack, "Orders_2", Some(&id.to_string()), &value).await;
        until_read(stack, "orders", "Orders_2").await;
        assert_eq!(effects(stack, id).await, [0, 1, 1]);
    });
}

/// In the middle of its effect one consumer is killed and the other one's session ended: what has had no effect was not said to
/// be handled, and has it later, once.
#[test]
fn an_effect_that_was_interrupted_is_not_taken_for_done() {
    with_stack(async |lock| {
        let mut stack = lock.write().await;
        stack.db.batch_execute("BEGIN; LOCK TABLE reservation, notification IN SHARE MODE").await.unwrap();
        let (id, body) = order(0);
        stack.place(0, "transactional-outbox", &body).await.unwrap();
        let waiting =
            "SELECT pid FROM pg_locks WHERE NOT granted AND relation = ANY ('{reservation,notification}'::regclass[])";
        let both_wait = async |stack: &Stack| Ok(stack.db.query(waiting, &[]).await?.len() == 2);
        stack.wait("both consumers are in the middle", both_wait).await.unwrap();
        stays(&stack, "the record counts as read", async |stack| {
            let mut config = stack.kafka.client();
            config.set("group.id", "inventory");
            let consumer: BaseConsumer = config.create()?;
            Ok(!tokio::task::spawn_blocking(move || has_read(&consumer, "Orders_1")).await??)
        })
        .await;
        stack.kill("inventory");
        let end =
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation = 'notification'::regclass";
        assert_eq!(stack.db.query(end, &[]).await.unwrap().len(), 1);
        stack.db.batch_execute("ROLLBACK").await.unwrap();
        stack.run("inventory");
        until_effects(&stack, &[id]).await;
        for group in ["inventory", "notification"] {
            until_read(&stack, group, "Orders_1").await;
        }
        assert_eq!(effects(&stack, id).await, [1, 1, 1]);
    });
}

/// While the broker does not answer, nothing counts as published; whoever publishes may be killed then.
#[test]
fn what_the_broker_has_not_confirmed_is_not_published() {
    with_stack(async |lock| {
        let mut stack = lock.write().await;
        // both pollers have published before, so that neither waits for the broker to tell it about the topic
        until_effects(&stack, &place_some(&stack).await).await;
        stack.kafka.freeze();
        let ids = place_some(&stack).await;
        stays(&stack, "rows are marked", async |stack| {
            let sql = "SELECT count(*) FROM \"Transactional_Outbox\" t FULL JOIN \"Listen_To_Yourself\" l USING (id) \
                       WHERE id = ANY ($1) AND (t.published_at IS NOT NULL OR l.published_at IS NOT NULL)";
            Ok(stack.db.query_one(sql, &[&ids]).await?.get::<_, i64>(0) == 0)
        })
        .await;
        for program in ["poller-1", "poller-2", "connect"] {
            stack.kill(program);
        }
        stack.kafka.thaw();
        for program in ["poller-1", "poller-2", "connect"] {
            stack.run(program);
        }
        until_effects(&stack, &ids).await;
    });
}

/// Four orders of each pattern.
async fn place_some(stack: &Stack) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for number in 0..12 {
        let (id, body) = order(number);
        stack.place(number, PATTERNS[number % 3].0, &body).await.unwrap();
        ids.push(id);
    }
    ids
}

/// What must never be can only be watched for a while: three times as long as the consumers wait before they say what they
/// have handled.
async fn stays(stack: &Stack, otherwise: &str, state: impl AsyncFn(&Stack) -> Outcome<bool>) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert!(state(stack).await.unwrap(), "{otherwise}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn kills_in_the_middle_lose_nothing_and_double_nothing() {
    with_stack(async |lock| {
        let mut placed = Vec::new();
        let programs =
            ["poller-1", "order-service-1", "connect", "inventory", "poller-2", "notification", "order-service-2"];
        for (turn, program) in programs.into_iter().enumerate() {
            let place = async |stack: &Stack, number: usize| {
                let mut ids = Vec::new();
                for (pattern, topic) in PATTERNS {
                    let (id, body) = order(number);
                    stack.place(number, pattern, &body).await.unwrap();
                    ids.push((id, topic));
                }
                ids
            };
            // others' tests go on meanwhile: they only see that it takes longer
            for number in 0..4 {
                placed.extend(place(&*lock.read().await, turn + number).await);
            }
            lock.write().await.kill(program);
            for number in 0..4 {
                placed.extend(place(&*lock.read().await, turn + number).await);
            }
            lock.write().await.run(program);
        }
        let stack = &lock.read().await;
        let ids: Vec<Uuid> = placed.iter().map(|(id, _)| *id).collect();
        until_effects(stack, &ids).await;
        for (group, topics) in [("orders", &["Orders_2"][..]), ("inventory", &["Orders_1", "Orders_2", "Orders_3"])] {
            for topic in topics {
                until_read(stack, group, topic).await;
            }
        }
        let mut repeated = 0;
        for (_, topic) in PATTERNS {
            let all = stack.kafka.records(topic).await;
            for (id, _) in placed.iter().filter(|(_, of)| *of == topic) {
                let records = all.iter().filter(|record| record.header("id") == Some(&id.to_string())).count();
                assert!(records > 0, "{id} on {topic}");
                repeated += records - 1;
            }
        }
        for id in &ids {
            assert_eq!(effects(stack, *id).await, [1, 1, 1], "{id}");
        }
        println!("duplicates: {} orders, {repeated} records more than once, each effect once", ids.len());
    });
}
