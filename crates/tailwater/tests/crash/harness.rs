//! One scene: a database with an outbox, an exchange with a queue, a configuration file, and the program run on it.

use crate::verdict::Verdict;
use serde_json::Value;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testbed::{
    Child, Committed, Load, LoadOptions, Postgres, Proxy, Rabbit, RabbitMq, Received, eventually, free_port, http_get,
    note, unique,
};

/// What is not reached within this time, on a busy machine too, has failed.
pub const LIMIT: Duration = Duration::from_secs(30);
/// `delivery.window` of these tests.
pub const WINDOW: usize = 500;
/// `delivery.confirm_interval` of these tests.
pub const CONFIRM_INTERVAL: Duration = Duration::from_millis(250);
/// Rows a transaction has on average (see `testbed::Load`), rounded up, times 500 transactions a second.
const EVENTS_PER_SECOND: usize = 600;

/// Whether the long form was asked for.
pub fn long() -> bool {
    std::env::var("TAILWATER_CRASH").is_ok_and(|form| form == "long")
}

/// The load of these tests.
pub fn rate(per_second: u32) -> LoadOptions {
    LoadOptions { per_second, ..LoadOptions::default() }
}

/// Duplicates that so many crashes may cause: each the window and one confirm interval.
pub fn bound(crashes: usize) -> usize {
    crashes * (WINDOW + EVENTS_PER_SECOND * CONFIRM_INTERVAL.as_millis() as usize / 1000)
}

/// Proxies in front of both servers.
pub async fn cut_proxies(postgres: &Postgres, broker: &RabbitMq) -> (Proxy, Proxy) {
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    (Proxy::to(local(postgres.port())).await, Proxy::to(local(broker.amqp_port())).await)
}

pub struct Scene {
    pub database: String,
    pub exchange: String,
    pub queue: String,
    pub slot: String,
    pub config: PathBuf,
    http: u16,
    /// Holds the state directory; gone with the scene.
    _dir: TempDir,
}

impl Scene {
    /// A scene of its own on these servers.
    pub async fn new(hint: &str, postgres: &Postgres, broker: &RabbitMq) -> Scene {
        Scene::between(hint, postgres, broker, postgres.port(), broker.amqp_port()).await
    }

    /// The program reaches both servers through proxies.
    pub async fn behind(
        hint: &str,
        postgres: &Postgres,
        broker: &RabbitMq,
        to_database: &Proxy,
        to_broker: &Proxy,
    ) -> Scene {
        Scene::between(hint, postgres, broker, to_database.addr().port(), to_broker.addr().port()).await
    }

    async fn between(hint: &str, postgres: &Postgres, broker: &RabbitMq, source: u16, sink: u16) -> Scene {
        let database = postgres.database(hint).await;
        Load::prepare(postgres, &database).await;
        let (exchange, queue, slot) = (unique("events"), unique("queue"), unique(hint));
        let rabbit = Rabbit::connect(broker).await;
        rabbit.exchange(&exchange).await;
        rabbit.queue(&queue, &exchange, &["outbox.event.order"]).await;
        let sink_table = format!(
            r#"type = "rabbitmq"
urls = ["amqp://guest:guest@127.0.0.1:{sink}/%2f"]
exchange = "{exchange}""#
        );
        Scene { exchange, queue, ..Scene::with(database, slot, source, &sink_table) }
    }

    /// A scene whose sink is written out.
    pub fn with(database: String, slot: String, source: u16, sink_table: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let http = free_port();
        let text = format!(
            r#"
state_dir = "{state}"

[http]
listen = "127.0.0.1:{http}"

[pipelines.crash.source]
type = "postgres"
url = "postgres://postgres@127.0.0.1:{source}/{database}?sslmode=disable"
slot = "{slot}"
publication = "outbox_pub"
table = "public.outbox"

[pipelines.crash.sink]
{sink_table}

[pipelines.crash.delivery]
window = {WINDOW}
confirm_interval = "{interval}ms"
"#,
            state = dir.path().join("state").display(),
            interval = CONFIRM_INTERVAL.as_millis(),
        );
        let config = dir.path().join("tailwater.toml");
        std::fs::write(&config, text).unwrap();
        Scene { database, exchange: String::new(), queue: String::new(), slot, config, http, _dir: dir }
    }

    /// The same pipeline on another host: the same configuration, a port and a state directory of its own.
    pub fn twin(&self) -> Scene {
        let (dir, http) = (tempfile::tempdir().unwrap(), free_port());
        let text = std::fs::read_to_string(&self.config).unwrap();
        let place = |scene: &TempDir| scene.path().join("state").display().to_string();
        let text = text
            .replace(&place(&self._dir), &place(&dir))
            .replace(&format!("127.0.0.1:{}", self.http), &format!("127.0.0.1:{http}"));
        let config = dir.path().join("tailwater.toml");
        std::fs::write(&config, text).unwrap();
        let (database, exchange) = (self.database.clone(), self.exchange.clone());
        Scene { database, exchange, queue: self.queue.clone(), slot: self.slot.clone(), config, http, _dir: dir }
    }

    /// Changes the configuration file.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "no {from:?} in the configuration");
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Starts the program.
    pub fn relay(&self) -> Child {
        Scene::relay_with(&self.config)
    }

    /// Starts the program with another file.
    pub fn relay_with(config: &Path) -> Child {
        Scene::relay_under(config, &[])
    }

    /// Starts the program with these variables.
    pub fn relay_under(config: &Path, variables: &[(&'static str, PathBuf)]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["run", "--config"]).arg(config);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TAILWATER_") || name.starts_with("PG")) {
            command.env_remove(name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Child::start(command)
    }

    /// What `/api/v1/status` says of the pipeline; `None` while nobody answers.
    pub async fn status(&self) -> Option<Value> {
        let answer = http_get(self.http, "/api/v1/status", None).await.ok()?;
        let pipeline = answer.json()["pipelines"][0].clone();
        note(&pipeline);
        pipeline.is_object().then_some(pipeline)
    }

    /// One of its counters.
    pub async fn count(&self, name: &str) -> u64 {
        let count = || async { self.status().await?["counts"][name].as_u64() };
        eventually(LIMIT, count).await
    }

    /// Waits until the log is being read (the snapshot is over).
    pub async fn streaming(&self) {
        eventually(LIMIT, || async { self.status().await.filter(|status| status["state"] == "streaming") }).await;
    }

    /// Waits until so many events are published by this process.
    pub async fn published(&self, count: u64) {
        let reached = || async { (self.status().await?["counts"]["published"].as_u64()? >= count).then_some(()) };
        eventually(LIMIT, reached).await;
    }

    /// Waits until everything committed lies in the queue, ends the program with SIGTERM (exit code 0, or panic) and
    /// counts what the queue holds then.
    pub async fn settle(&self, relay: Child, committed: Vec<Committed>, broker: &RabbitMq) -> Verdict {
        let rabbit = Rabbit::connect(broker).await;
        let (mut arrived, mut open): (Vec<_>, HashSet<String>) =
            (vec![], committed.iter().map(|row| row.id.to_string()).collect());
        let start = Instant::now();
        while !open.is_empty() && start.elapsed() < LIMIT && relay.ended().is_none() {
            let messages = rabbit.drain(&self.queue).await;
            for id in messages.iter().filter_map(|message| message.message_id.as_deref()) {
                open.remove(id);
            }
            arrived.extend(messages);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.end(relay, open.is_empty()).await;
        arrived.extend(rabbit.drain(&self.queue).await);
        rabbit.delete_queue(&self.queue).await;
        let id = |message: Received| message.message_id.unwrap_or_else(|| "a message without an id".into());
        Verdict::new(committed, arrived.into_iter().map(id).collect())
    }

    /// SIGTERM; exit code 0, or panic.
    pub async fn end(&self, relay: Child, complete: bool) {
        if !complete {
            println!("last status: {:?}", self.status().await);
            println!("the program said:\n{}", relay.stderr().join("\n"));
        }
        relay.term();
        let status = relay.wait(LIMIT).await;
        assert_eq!(status.code(), Some(0), "after SIGTERM; it said:\n{}", relay.stderr().join("\n"));
    }
}
