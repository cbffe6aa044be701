//! Many pipelines in one process: 20 busy ones next to one and to the floor, 200 idle ones by their memory.
//!
//! Every pipeline has its own slot, its own connections and its own lane. Not a test: nothing fails here.

mod busy;
mod idle;

use crate::process::Measured;
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testbed::{Kafka, Postgres, PostgresOptions, Rabbit, RabbitMq};

#[derive(Debug, Args)]
pub struct ManyArgs {
    /// Busy pipelines; 0 leaves them out
    #[arg(long, default_value_t = 20)]
    busy: usize,
    /// Rows that they drain together
    #[arg(long, default_value_t = 200_000)]
    rows: usize,
    /// Rounds of the busy ones; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Idle pipelines; 0 leaves them out
    #[arg(long, default_value_t = 200)]
    idle: usize,
    /// How long the idle ones are watched, seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where to publish to
    #[arg(long, value_delimiter = ',', default_value = "rabbitmq,kafka,stdout")]
    sinks: Vec<SinkKind>,
    /// Measure this program instead of a release build
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SinkKind {
    Rabbitmq,
    Kafka,
    Stdout,
}

struct Scene {
    pg: Postgres,
    rabbit: Option<RabbitMq>,
    kafka: Option<Kafka>,
    tailwater: PathBuf,
}

pub async fn run(args: ManyArgs) -> Result<(), String> {
    let tailwater = match &args.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    eprintln!("start private servers …");
    let settings = vec![("max_wal_senders", "300"), ("max_replication_slots", "700"), ("max_connections", "800")];
    let scene = Scene {
        pg: Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await,
        rabbit: if args.sinks.contains(&SinkKind::Rabbitmq) { Some(RabbitMq::start().await) } else { None },
        kafka: if args.sinks.contains(&SinkKind::Kafka) { Some(Kafka::start().await) } else { None },
        tailwater,
    };
    if args.idle > 0 {
        for sink in &args.sinks {
            idle::run(&scene, *sink, args.idle, Duration::from_secs(args.seconds)).await?;
        }
    }
    if args.busy > 0 {
        busy::run(&scene, &args.sinks, args.busy, args.rows, args.rounds).await?;
    }
    Ok(())
}

fn build() -> Result<PathBuf, String> {
    eprintln!("build in release …");
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--package", "tailwater", "--bins"])
        .status()
        .map_err(|error| format!("run cargo: {error}"))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    if status.success() { Ok(target.join("release/tailwater")) } else { Err("the release build failed".into()) }
}

/// One pipeline of a configuration: name, database, slot.
struct Line<'a> {
    name: String,
    database: &'a str,
    slot: String,
}

impl Scene {
    fn config(&self, directory: &Path, sink: SinkKind, destination: &str, lines: &[Line<'_>]) -> PathBuf {
        let state = directory.join("state");
        let mut text = format!("state_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n", state.display());
        for Line { name, database, slot } in lines {
            let url = self.pg.url(database);
            let written = write!(
                text,
                "[pipelines.{name}.source]\ntype = \"postgres\"\nurl = \"{url}\"\nslot = \"{slot}\"\n\
                 publication = \"pub\"\ntable = \"outbox\"\n[pipelines.{name}.route.outbox]\n\
                 topic_replacement = \"{destination}\"\nexpand_json = true\n[pipelines.{name}.sink]\n{sink}",
                sink = self.sink(sink, destination),
            );
            written.expect("a text takes text");
        }
        let path = directory.join("many.toml");
        std::fs::write(&path, text).expect("a temporary directory takes files");
        path
    }

    fn sink(&self, sink: SinkKind, destination: &str) -> String {
        match (sink, &self.rabbit, &self.kafka) {
            (SinkKind::Rabbitmq, Some(rabbit), _) => {
                format!("type = \"rabbitmq\"\nurls = [\"{}\"]\nexchange = \"{destination}\"\n", rabbit.url())
            }
            (SinkKind::Kafka, _, Some(kafka)) => {
                format!("type = \"kafka\"\nbootstrap_servers = [\"{}\"]\n", kafka.bootstrap())
            }
            _ => "type = \"stdout\"\n".into(),
        }
    }

    /// An exchange with a queue, or a topic.
    async fn destination(&self, sink: SinkKind) -> String {
        let name = testbed::unique("many").replace('_', "-");
        match (sink, &self.rabbit, &self.kafka) {
            (SinkKind::Rabbitmq, Some(node), _) => {
                let rabbit = Rabbit::connect(node).await;
                rabbit.exchange(&name).await;
                rabbit.queue(&name, &name, &["#"]).await;
            }
            (SinkKind::Kafka, _, Some(kafka)) => kafka.create_topic(&name, 4, &[]).await,
            _ => {}
        }
        name
    }

    async fn forget(&self, sink: SinkKind, name: &str) {
        if let (SinkKind::Rabbitmq, Some(node)) = (sink, &self.rabbit) {
            Rabbit::connect(node).await.delete_queue(name).await;
        }
    }

    fn start(&self, config: &Path) -> Result<Measured, String> {
        let mut command = Command::new(&self.tailwater);
        command.args(["run", "--log-level", "error", "--config"]).arg(config).stdout(Stdio::null());
        Measured::spawn(&mut command)
    }

    async fn database(&self) -> Result<String, String> {
        let database = self.pg.database("many").await;
        let sql = "create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, \
             aggregateid text not null, type text not null, payload jsonb); \
             create publication pub for table outbox with (publish = 'insert')";
        self.sql(&database, sql).await?;
        Ok(database)
    }

    async fn sql(&self, database: &str, sql: &str) -> Result<(), String> {
        let done = self.pg.client(database).await.batch_execute(sql).await;
        done.map_err(|error| format!("{sql}: {error:?}"))
    }

    /// The first column of the first row.
    async fn number(&self, database: &str, sql: &str) -> Result<i64, String> {
        let row = self.pg.client(database).await.query_one(sql, &[]).await;
        row.map(|row| row.get(0)).map_err(|error| format!("{sql}: {error:?}"))
    }

    /// The programs that held them were killed: the server may need a moment to notice.
    async fn drop_slots(&self, like: &str) -> Result<(), String> {
        let free = format!(
            "select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots \
             where slot_name like '{like}%' and not active"
        );
        let left = format!("select count(*) from pg_replication_slots where slot_name like '{like}%'");
        for _ in 0..200 {
            if self.number("postgres", &left).await? == 0 {
                return Ok(());
            }
            // one that was taken between the two looks is dropped at the next
            drop(self.number("postgres", &free).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("slots {like}… stay in use"))
    }
}
