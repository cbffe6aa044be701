//! Servers and processes of the lab: one private PostgreSQL, one private Kafka, and for each pattern a database, a topic,
//! a service, a consumer, and a relay where the pattern has one. All traffic of the patterns goes through fault proxies.

use super::LabError;
use super::pattern::Pattern;
use super::service::Order;
use crate::sources::postgres_poll::config::channel;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testbed::{Child, Kafka, KafkaOptions, Postgres, Proxy, WorkDir};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio_postgres::Client;

const PATTERN_SCHEMA: &str = r#"
CREATE TABLE orders (
    id uuid PRIMARY KEY, requested_us bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE, id uuid PRIMARY KEY, aggregatetype text NOT NULL,
    aggregateid text NOT NULL, type text NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), published_at timestamptz);
CREATE PUBLICATION outbox FOR TABLE outbox WITH (publish = 'insert');
"#;

/// What a poller wants: rows that are not published yet under an index, and to be woken at each commit (without it, it looks
/// once a second).
const POLLED: &str = r#"
CREATE INDEX unpublished ON outbox (seq) WHERE published_at IS NULL;
CREATE FUNCTION wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('CHANNEL', ''); RETURN NULL; END $$;
CREATE TRIGGER wake AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION wake();
"#;

const CONSUMER_SCHEMA: &str = r#"
CREATE TABLE seen (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, requested_us bigint NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE effect (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, requested_us bigint NOT NULL);
"#;

/// A process that can be killed and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Consumer,
    /// Applies the orders of "listen to yourself".
    Listener,
    Relay,
}

/// Where orders go in, also while the service behind it is replaced.
pub type Feed = Arc<tokio::sync::Mutex<ChildStdin>>;

/// Everything of one pattern.
pub struct Side {
    pub pattern: Pattern,
    service: Service,
    processes: BTreeMap<Role, Child>,
}

/// The service process and what it said.
struct Service {
    child: tokio::process::Child,
    input: Feed,
    said: Arc<Mutex<Vec<String>>>,
}

/// An order whose service was killed at its weak point.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Point {
    pub pattern: Pattern,
    pub id: String,
    /// When it was killed, µs since 1970.
    pub killed_us: i64,
}

pub struct World {
    pub pg: Postgres,
    pub kafka: Kafka,
    pub sides: Vec<Side>,
    /// Between all processes and the database.
    pub database_proxy: Proxy,
    /// Between all processes and the broker.
    pub broker_proxy: Proxy,
    pub points: Vec<Point>,
    dir: WorkDir,
}

impl World {
    /// Servers, databases, topics, processes.
    pub async fn set(patterns: &[Pattern]) -> Result<World, LabError> {
        // a broker that was killed may come back as soon as its former session has expired
        let settings = vec!["broker.session.timeout.ms=4000", "broker.heartbeat.interval.ms=500"];
        let options = KafkaOptions { proxies: 1, settings, ..KafkaOptions::default() };
        let (pg, kafka) = tokio::join!(Postgres::start(), Kafka::start_with(options));
        let broker_proxy = kafka.take_proxy();
        let database_proxy = Proxy::to(([127, 0, 0, 1], pg.port()).into()).await;
        let mut world = World {
            pg,
            kafka,
            sides: Vec::new(),
            database_proxy,
            broker_proxy,
            points: Vec::new(),
            dir: WorkDir::new(),
        };
        for pattern in patterns {
            let side = world.side(*pattern).await?;
            world.sides.push(side);
        }
        Ok(world)
    }

    async fn side(&self, pattern: Pattern) -> Result<Side, LabError> {
        let (name, consumer) = (pattern.name(), format!("{}_consumer", pattern.name()));
        let root = self.pg.client("postgres").await;
        root.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        root.batch_execute(&format!("CREATE DATABASE {consumer}")).await?;
        let (mut db, mut consumer_db): (Client, Client) = (self.pg.client(name).await, self.pg.client(&consumer).await);
        db.batch_execute(PATTERN_SCHEMA).await?;
        if matches!(pattern, Pattern::Polling | Pattern::ListenToYourself) {
            db.batch_execute(&POLLED.replace("CHANNEL", &channel("outbox"))).await?;
        }
        consumer_db.batch_execute(CONSUMER_SCHEMA).await?;
        tailwater_client::inbox::create_table(&mut db).await?;
        tailwater_client::inbox::create_table(&mut consumer_db).await?;
        // the time of a record is when the broker took it
        self.kafka.create_topic(name, 2, &[("message.timestamp.type", "LogAppendTime")]).await;
        std::fs::write(self.relay_file(pattern), self.relay_config(pattern))?;
        let service = self.start_service(pattern).await?;
        let mut side = Side { pattern, service, processes: BTreeMap::new() };
        for role in roles(pattern) {
            self.start(&mut side, *role)?;
        }
        Ok(side)
    }

    /// Starts a process, or starts it again.
    pub fn start(&self, side: &mut Side, role: Role) -> Result<(), LabError> {
        let mut command = std::process::Command::new(program()?);
        match role {
            Role::Relay => {
                // its file is all its configuration, whatever is set around the lab
                for (name, _) in
                    std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TAILWATER_"))
                {
                    command.env_remove(name);
                }
                command.arg("run").arg("--config").arg(self.relay_file(side.pattern));
            }
            Role::Consumer | Role::Listener => {
                let database = match role {
                    Role::Listener => side.pattern.name().to_owned(),
                    _ => format!("{}_consumer", side.pattern.name()),
                };
                command.args(["lab-consumer", &side.pattern.name().replace('_', "-")]);
                command.args((role == Role::Listener).then_some("--apply"));
                command.envs(self.places(&database));
            }
        }
        side.processes.insert(role, Child::start_logged(command, &self.log(side.pattern, role)));
        Ok(())
    }

    fn log(&self, pattern: Pattern, role: Role) -> PathBuf {
        self.dir.path().join(format!("{}-{role:?}.log", pattern.name()).to_lowercase())
    }

    fn places(&self, database: &str) -> [(&'static str, String); 2] {
        let database_url = format!("postgres://postgres@{}/{database}", self.database_proxy.addr());
        [("LAB_DATABASE_URL", database_url), ("LAB_BOOTSTRAP", self.broker_proxy.addr().to_string())]
    }

    async fn start_service(&self, pattern: Pattern) -> Result<Service, LabError> {
        let mut command = Command::new(program()?);
        command.args(["lab-service", &pattern.name().replace('_', "-")]).envs(self.places(pattern.name()));
        let log = self.dir.path().join(format!("{}-service.log", pattern.name()));
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn()?;
        let input = Feed::new(tokio::sync::Mutex::new(child.stdin.take().expect("piped")));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.lock().expect("no panic while held").push(line);
            }
        });
        let service = Service { child, input, said };
        service.hear("ready").await?;
        Ok(service)
    }

    /// Stops the service at its weak point, kills it there, starts a new one in its place.
    /// `order` walks into it, in case the driver has none left.
    pub async fn kill_service(&self, side: &mut Side, order: &Order) -> Result<Point, LabError> {
        side.service.input.lock().await.write_all(format!("arm\n{}", order.line()).as_bytes()).await?;
        let line = side.service.hear("point ").await?;
        let killed_us = super::now_us();
        side.service.child.kill().await?;
        let fresh = self.start_service(side.pattern).await?;
        let input = Arc::into_inner(fresh.input).expect("nobody else has it yet").into_inner();
        *side.service.input.lock().await = input;
        (side.service.child, side.service.said) = (fresh.child, fresh.said);
        Ok(Point { pattern: side.pattern, id: line.trim_start_matches("point ").to_owned(), killed_us })
    }

    fn relay_file(&self, pattern: Pattern) -> PathBuf {
        self.dir.path().join(format!("{}.toml", pattern.name()))
    }

    fn relay_config(&self, pattern: Pattern) -> String {
        let name = pattern.name();
        let state = self.dir.path().join(name).display().to_string();
        let url = format!("postgres://postgres@{}/{name}", self.database_proxy.addr());
        let source = match pattern {
            Pattern::LogTailing => format!("type = \"postgres\"\nslot = \"{name}\"\npublication = \"outbox\"\n"),
            _ => "type = \"postgres-poll\"\norder_column = \"seq\"\ndone = \"mark\"\nmark_column = \"published_at\"\n"
                .into(),
        };
        let bootstrap = self.broker_proxy.addr();
        format!(
            "state_dir = \"{state}\"\n[http]\nlisten = \"\"\n[pipelines.{name}.source]\nurl = \"{url}\"\ntable = \"outbox\"\n\
             {source}[pipelines.{name}.route.outbox]\ntopic_replacement = \"${{routedByValue}}\"\nexpand_json = true\n\
             [pipelines.{name}.sink]\ntype = \"kafka\"\nbootstrap_servers = [\"{bootstrap}\"]\n"
        )
    }

    /// The last lines of all that runs: for an error.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for side in &self.sides {
            for (role, process) in &side.processes {
                let lines = process.stderr();
                let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("\n    ");
                text.push_str(&format!("  {} {role:?}\n    {last}\n", side.pattern.name()));
            }
        }
        text
    }
}

/// The processes of a pattern beside its service.
pub fn roles(pattern: Pattern) -> &'static [Role] {
    match pattern {
        Pattern::DatabaseFirst | Pattern::BrokerFirst => &[Role::Consumer],
        Pattern::Polling | Pattern::LogTailing => &[Role::Relay, Role::Consumer],
        Pattern::ListenToYourself => &[Role::Relay, Role::Listener, Role::Consumer],
    }
}

/// This very program.
fn program() -> Result<PathBuf, LabError> {
    Ok(match std::env::var_os("TAILWATER_BINARY") {
        Some(path) => path.into(),
        None => std::env::current_exe()?,
    })
}

impl Side {
    /// Where orders go in.
    pub fn feed(&self) -> Feed {
        self.service.input.clone()
    }

    /// `kill -9`; nothing if the pattern has no such process.
    pub fn kill(&mut self, role: Role) -> bool {
        match self.processes.remove(&role) {
            Some(process) => {
                process.kill9();
                true
            }
            None => false,
        }
    }

    /// A process that ended by itself.
    pub fn ended(&self) -> Option<String> {
        let (role, process) = self.processes.iter().find(|(_, process)| process.ended().is_some())?;
        let lines = process.stderr();
        let last = lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("\n");
        Some(format!("{} {role:?} ended by itself:\n{last}", self.pattern.name()))
    }
}

impl Service {
    /// Waits for a line that begins so.
    async fn hear(&self, start: &str) -> Result<String, LabError> {
        let began = Instant::now();
        loop {
            let found = {
                let said = self.said.lock().expect("no panic while held");
                said.iter().rev().find(|line| line.starts_with(start)).cloned()
            };
            match found {
                Some(line) => return Ok(line),
                None if began.elapsed() > Duration::from_secs(30) => {
                    return Err(LabError::Stuck(format!("the service did not say `{start}`")));
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}
