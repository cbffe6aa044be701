//! One side of the replay: the program, its servers, and what is masked.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testbed::{Child, Postgres, WorkDir, eventually, free_port, http_get, shared_kafka};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A recorded call.
#[derive(Debug, Deserialize)]
pub struct Call {
    pub n: u32,
    pub method: String,
    pub path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    status: u16,
    #[serde(default)]
    answer_headers: BTreeMap<String, String>,
    answer: Option<Value>,
    answer_text: Option<String>,
}

/// The program under test with its servers.
pub struct Side {
    pub port: u16,
    _program: Child,
    pg: Postgres,
    _dir: WorkDir,
    files: AtomicU32,
}

const WORKER: &str = "127.0.0.1:58083";
/// The recording has it in the clear; our answers never do.
const SECRET: &str = "dbz-secret";
const DATABASE_PORT: &str = "54415";

/// Stands in for Connect's file connector, which there is none of here.
const FILES: [(&str, &str); 9] = [
    ("connector.class", "io.debezium.connector.postgresql.PostgresConnector"),
    ("database.hostname", "127.0.0.1"),
    ("database.user", "dbz"),
    ("database.password", "dbz-secret"),
    ("database.dbname", "shop"),
    ("topic.prefix", "files"),
    ("plugin.name", "pgoutput"),
    ("publication.name", "dbz_pub"),
    ("table.include.list", "public.orders"),
];

impl Side {
    pub async fn start() -> Side {
        let pg = Postgres::start().await;
        let kafka = shared_kafka().await;
        pg.client("postgres").await.batch_execute("CREATE DATABASE shop").await.unwrap();
        pg.client("shop")
            .await
            .batch_execute(
                "CREATE ROLE dbz LOGIN REPLICATION PASSWORD 'dbz-secret'; \
                 CREATE TABLE orders (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb); \
                 GRANT SELECT ON orders TO dbz; CREATE PUBLICATION dbz_pub FOR TABLE orders",
            )
            .await
            .unwrap();
        let (dir, port) = (WorkDir::new(), free_port());
        let config = format!(
            "state_dir = \"{0}/state\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[kafka]\nbootstrap_servers = [\"{1}\"]\n\
             topics = {{ create = true }}\n",
            dir.path().display(),
            kafka.bootstrap()
        );
        let file = dir.path().join("connect.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["run", "--config"]).arg(file);
        let program = Child::start(command);
        eventually(Duration::from_secs(20), || async { http_get(port, "/connectors", None).await.ok() }).await;
        Side { port, _program: program, pg, _dir: dir, files: AtomicU32::new(0) }
    }

    /// What differs, in words; `None`: nothing.
    pub async fn replay(&self, call: &Call) -> Option<String> {
        match call.n {
            77 | 104 | 129 => self.settled(call).await,
            84 => self.published(call).await,
            _ => {}
        }
        let (status, headers, body) = self.send(call).await;
        let mut differences = Vec::new();
        if body.contains(SECRET) {
            differences.push("  a password came back".to_owned());
        }
        if status != call.status {
            differences.push(format!("  status {status}, recorded {}", call.status));
        }
        let kind = headers.get("content-type").map(|kind| kind.split(';').next().unwrap_or_default().to_owned());
        let recorded =
            call.answer_headers.get("content-type").map(|kind| kind.split(';').next().unwrap_or_default().to_owned());
        // Connect sends its own errors from outside the resources without a type, and HEAD and OPTIONS with one
        if recorded.is_some() && recorded != kind && !["HEAD", "OPTIONS"].contains(&call.method.as_str()) {
            differences.push(format!("  content type {kind:?}, recorded {recorded:?}"));
        }
        match (serde_json::from_str::<Value>(&body).ok(), &call.answer) {
            (Some(ours), Some(theirs)) => {
                let (ours, theirs) = (self.masked(ours), self.masked(theirs.clone()));
                if ours != theirs {
                    differences.push(format!("  ours     {ours}\n  recorded {theirs}"));
                }
            }
            (None, None) if body.is_empty() == call.answer_text.as_deref().is_none_or(str::is_empty) => {}
            (ours, theirs) => {
                differences.push(format!("  ours {ours:?} {body:?}, recorded {theirs:?} {:?}", call.answer_text))
            }
        }
        let place = |headers: &BTreeMap<String, String>| {
            headers.get("location").map(|place| place.replace(WORKER, &self.worker()))
        };
        if place(&headers) != place(&call.answer_headers) {
            differences.push(format!("  location {:?}", headers.get("location")));
        }
        (!differences.is_empty()).then(|| differences.join("\n"))
    }

    /// Waits for the state that the recording waited for.
    async fn settled(&self, call: &Call) {
        let wanted = call.answer.as_ref().map(|answer| answer["tasks"][0]["state"].clone());
        eventually(Duration::from_secs(30), || async {
            let answer = http_get(self.port, &call.path, None).await.ok()?;
            (Some(answer.json()["tasks"][0]["state"].clone()) == wanted).then_some(())
        })
        .await;
    }

    /// A row commits, and its topic is known: what the recording gave two seconds to.
    async fn published(&self, call: &Call) {
        let row = "INSERT INTO orders VALUES (gen_random_uuid(), 'order', '1', 'order.placed', '{}')";
        self.pg.client("shop").await.batch_execute(row).await.unwrap();
        eventually(Duration::from_secs(30), || async {
            let answer = http_get(self.port, &call.path, None).await.ok()?;
            (Some(answer.json()) == call.answer).then_some(())
        })
        .await;
    }

    fn worker(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn send(&self, call: &Call) -> (u16, BTreeMap<String, String>, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut head =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", call.method, call.path, self.worker());
        for (name, value) in &call.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = call.body.as_deref().map(|body| self.adapted(body)).unwrap_or_default();
        if call.body.is_some() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.unwrap();
        let text = String::from_utf8_lossy(&raw).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
        (status, headers, body.to_owned())
    }

    /// A recorded body for these servers: the database's port.
    fn adapted(&self, body: &str) -> String {
        let body = body.replace(DATABASE_PORT, &self.pg.port().to_string());
        let Ok(Value::Object(mut whole)) = serde_json::from_str::<Value>(&body) else { return body };
        let config = match whole.get_mut("config") {
            Some(Value::Object(config)) => config,
            Some(_) => return body,
            None => &mut whole,
        };
        if config.get("connector.class").and_then(Value::as_str) == Some("FileStreamSource") {
            // what is shown with a file connector holds for any: names, states, numbers as values
            let slot = format!("files_{}", self.files.fetch_add(1, Ordering::Relaxed));
            let places = [("database.port", self.pg.port().to_string()), ("slot.name", slot)];
            config.extend(FILES.map(|(key, value)| (key.to_owned(), Value::from(value))));
            config.extend(places.map(|(key, value)| (key.to_owned(), Value::from(value))));
            ["file", "topic", "exclude"].iter().for_each(|key| drop(config.remove(*key)));
        }
        Value::Object(whole).to_string()
    }

    /// Without what differs from run to run or belongs to the product: addresses, versions, secrets, places in the log.
    fn masked(&self, value: Value) -> Value {
        match value {
            Value::Object(map) => Value::Object(self.masked_map(map)),
            Value::Array(list) => Value::Array(list.into_iter().map(|value| self.masked(value)).collect()),
            Value::String(text) => {
                let text = text.replace(WORKER, "WORKER").replace(&self.worker(), "WORKER");
                let text = text.replace(DATABASE_PORT, "PORT").replace(&self.pg.port().to_string(), "PORT");
                // a text of errors is compared by its first line: the rest names keys in an order of its own
                Value::from(text.replace(SECRET, "********"))
            }
            other => other,
        }
    }

    fn masked_map(&self, map: Map<String, Value>) -> Map<String, Value> {
        let class = map.get("connector.class").and_then(Value::as_str);
        if class == Some("FileStreamSource") || map.get("topic.prefix").is_some_and(|prefix| prefix == "files") {
            return Map::from_iter([("name".to_owned(), map.get("name").cloned().unwrap_or_default())]);
        }
        // ours, and different in each run; but a text
        let version =
            |key: &str, value: &Value| ["version", "commit", "kafka_cluster_id"].contains(&key) && value.is_string();
        map.into_iter()
            .map(|(key, value)| {
                if version(&key, &value) {
                    return (key, Value::from("VERSION"));
                }
                (key, self.masked(value))
            })
            .collect()
    }
}
