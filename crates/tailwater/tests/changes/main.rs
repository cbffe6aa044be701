//! Change events end to end: a connector as people post it, the real binary, PostgreSQL and a broker.
#![allow(clippy::unwrap_used)] // a panic is a failed test

mod golden;
mod once;
#[path = "../../../tailwater-core/tests/golden/pointer.rs"]
mod pointer;
mod publication;
mod refused;
mod relay;
mod server;
mod setup;
mod snapshot;
mod stream;
mod transforms;

use relay::File;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use testbed::{
    Child, Kafka, Postgres, Record, WorkDir, eventually, free_port, http_request, note, shared_kafka, shared_postgres,
    unique,
};
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that waits for connectors, with the Kafka that they write to.
struct Process {
    kafka: &'static Kafka,
    port: u16,
    _file: File,
    child: Child,
}

impl Process {
    async fn start() -> Process {
        let (kafka, port) = (shared_kafka().await, free_port());
        let config = format!(
            "state_dir = \"state\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[kafka]\nbootstrap_servers = [\"{}\"]\n",
            kafka.bootstrap()
        );
        let file = File::new("tailwater.toml", &config);
        let child = file.run();
        let process = Process { kafka, port, _file: file, child };
        eventually(PATIENCE, || async { process.request("GET", "/connectors", None).await.ok() }).await;
        process
    }

    async fn request(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let body = body.map(|body| body.to_string());
        let answer = http_request(method, self.port, path, None, body.as_deref()).await.map_err(|e| e.to_string())?;
        if answer.status < 300 { Ok(answer.json()) } else { Err(answer.body) }
    }

    async fn post(&self, name: &str, config: &Value) -> Result<Value, String> {
        self.request("POST", "/connectors", Some(json!({ "name": name, "config": config }))).await
    }

    /// The state of the connector's task and its trace.
    async fn task(&self, name: &str) -> (String, String) {
        let status = self.request("GET", &format!("/connectors/{name}/status"), None).await.unwrap_or_default();
        let part = |name: &str| status["tasks"][0][name].as_str().unwrap_or_default().to_owned();
        (part("state"), part("trace"))
    }

    /// Waits until the connector's task has failed; its trace.
    async fn failed(&self, name: &str) -> String {
        eventually(PATIENCE, || async {
            let (state, trace) = self.task(name).await;
            (state == "FAILED").then_some(trace)
        })
        .await
    }
}

/// A database, and a connector for it.
struct Shop {
    pg: &'static Postgres,
    database: String,
    /// Also the topics' prefix, the slot and the connector.
    name: String,
    sql: Client,
}

impl Shop {
    async fn new(ddl: &str) -> Shop {
        let pg = shared_postgres().await;
        let (database, name) = (pg.database("changes").await, unique("changes").replace('-', "_"));
        let sql = pg.client(&database).await;
        sql.batch_execute(ddl).await.unwrap();
        Shop { pg, database, name, sql }
    }

    /// With the names of a recorded case, and without a table.
    async fn named(name: &str) -> Shop {
        let pg = shared_postgres().await;
        let admin = pg.client("postgres").await;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let sql = pg.client(name).await;
        sql.batch_execute("SET timezone = 'UTC'").await.unwrap();
        Shop { pg, database: name.into(), name: name.into(), sql }
    }

    /// What people write for Debezium's PostgreSQL connector, with changes: null takes a key away.
    fn connector(&self, more: Value) -> Value {
        let mut config = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "plugin.name": "pgoutput",
            "database.hostname": "127.0.0.1",
            "database.port": self.pg.port().to_string(),
            "database.user": "postgres",
            "database.password": "postgres",
            "database.dbname": self.database,
            "topic.prefix": self.name,
            "slot.name": self.name,
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "key.converter.schemas.enable": "false",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "false",
        });
        merge(&mut config, &more);
        config
    }

    async fn run(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap();
    }

    fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.name)
    }

    /// Gives the slot back, once nobody reads it.
    async fn leave(&self) {
        let free =
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
        eventually(PATIENCE, || async { self.sql.query_opt(free, &[&self.name]).await.ok().flatten() }).await;
    }

    /// The slot is read: the connector is past its snapshot.
    async fn streaming(&self) {
        streaming(&self.sql, &self.name).await;
    }
}

fn merge(config: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            value => config[key] = value.clone(),
        }
    }
}

async fn streaming(sql: &Client, slot: &str) {
    let active = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active AND NOT temporary AND confirmed_flush_lsn IS NOT NULL)";
    eventually(PATIENCE, || async { sql.query_one(active, &[&slot]).await.unwrap().get::<_, bool>(0).then_some(()) })
        .await;
}

impl Process {
    async fn topic(&self, name: &str) {
        self.kafka.create_topic(name, 1, &[]).await;
    }

    /// What is in a topic, once there is so much.
    async fn records(&self, topic: &str, count: usize) -> Vec<Record> {
        eventually(PATIENCE, || async {
            let records = self.kafka.records(topic).await;
            let states = self.request("GET", "/connectors?expand=status", None).await;
            note((states, records.iter().map(|record| (key(record), value(record))).collect::<Vec<_>>()));
            assert!(
                records.len() <= count,
                "more than {count} in {topic}: {:?}",
                records.iter().map(value).collect::<Vec<_>>()
            );
            (records.len() == count).then_some(records)
        })
        .await
    }
}

fn parse(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |bytes| serde_json::from_slice(bytes).unwrap())
}

fn key(record: &Record) -> Value {
    parse(record.key.as_deref())
}

fn value(record: &Record) -> Value {
    parse(record.value.as_deref())
}
