//! A database with the service's tables, a virtual host with the example's topology, and workers in either language.
#![allow(dead_code)] // each test file uses its part

use deadpool_postgres::Pool;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use reports::database;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use uuid::Uuid;

pub const LIMIT: Duration = Duration::from_secs(30);

/// A migrated database with three users: its name and a pool.
pub async fn database() -> (String, Pool) {
    let pg = testbed::shared_postgres().await;
    let name = pg.database("reports").await;
    let pool = database::pool(&pg.url(&name)).unwrap();
    database::migrate(&pool, 3).await.unwrap();
    database::migrate(&pool, 3).await.unwrap(); // a second time is harmless
    (name, pool)
}

/// A virtual host with what examples/reports/rabbitmq/definitions.json says; the URL to it.
pub async fn broker() -> String {
    let mq = testbed::shared_rabbitmq().await;
    let vhost = testbed::unique("reports");
    let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
    assert_eq!(mq.manage("PUT", &format!("/api/vhosts/{vhost}"), None).await.status, 201);
    assert_eq!(mq.manage("PUT", &format!("/api/permissions/{vhost}/guest"), Some(all)).await.status, 204); // its maker may already
    let mut definitions: Value =
        serde_json::from_str(include_str!("../../../../examples/reports/rabbitmq/definitions.json")).unwrap();
    definitions.as_object_mut().unwrap().retain(|part, _| !matches!(part.as_str(), "vhosts" | "users" | "permissions"));
    let answer = mq.manage("POST", &format!("/api/definitions/{vhost}"), Some(&definitions.to_string())).await;
    assert!(answer.status < 300, "{answer:?}");
    format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", mq.amqp_port())
}

pub async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// What the relay publishes for a report.
pub async fn publish(channel: &Channel, body: &[u8]) {
    let (exchange, key) = ("events".into(), "report.requested".into());
    channel
        .basic_publish(exchange, key, BasicPublishOptions::default(), body, BasicProperties::default())
        .await
        .unwrap();
}

/// Messages ready in a queue.
pub async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

pub async fn until_depth(channel: &Channel, queue: &str, expected: u32) {
    testbed::eventually(LIMIT, || async {
        let depth = depth(channel, queue).await;
        testbed::note(depth);
        (depth == expected).then_some(())
    })
    .await;
}

pub async fn take(channel: &Channel, queue: &str) -> Vec<u8> {
    channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap().delivery.data
}

/// A report that was asked for, and the body of its message.
pub async fn requested(pool: &Pool, user_id: i64, key: &str) -> (Uuid, Value) {
    let id = Uuid::now_v7();
    let insert = "INSERT INTO report (id, idempotency_key, user_id) VALUES ($1, $2, $3)";
    pool.get().await.unwrap().execute(insert, &[&id, &key, &user_id]).await.unwrap();
    (id, body(id, user_id, key))
}

pub fn body(id: Uuid, user_id: i64, key: &str) -> Value {
    json!({
        "payload": {"report_id": id, "user_id": user_id, "from": null, "to": null},
        "event_type": "report.requested",
        "idempotency_key": key,
    })
}

pub async fn count(pool: &Pool, what: &str) -> i64 {
    pool.get().await.unwrap().query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
}

pub async fn until_count(pool: &Pool, what: &str, expected: i64) {
    testbed::eventually(LIMIT, || async {
        let count = count(pool, what).await;
        testbed::note(count);
        (count == expected).then_some(())
    })
    .await;
}

pub async fn status(pool: &Pool, id: Uuid) -> String {
    pool.get().await.unwrap().query_one("SELECT status FROM report WHERE id = $1", &[&id]).await.unwrap().get(0)
}

/// examples/reports/worker.py as it is, with Debian's Python; ends with the test.
pub fn python_worker(database_url: &str, amqp_url: &str) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/reports/worker.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).env("DATABASE_URL", database_url).env("AMQP_URL", amqp_url);
    command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .spawn()
        .expect("python3 (apt-get install python3-pika python3-psycopg2)")
}

/// `reports worker --no-mail`; ends with the test.
pub fn rust_worker(database_url: &str, amqp_url: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reports"));
    command.args(["worker", "--no-mail"]).env("DATABASE_URL", database_url).env("AMQP_URL", amqp_url);
    command.kill_on_drop(true).stdin(Stdio::null()).spawn().unwrap()
}
