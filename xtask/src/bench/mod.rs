//! Throughput and latency of the real binary next to the floor, in one run on private servers.
//!
//! Floors: `pg_recvlogical` to a null device (what the server can send) and a bare publisher of the same bytes (what the broker
//! can take). Machines are noisy: rounds are interleaved, medians and ratios are printed. Not a test: nothing fails here.

mod debezium;
mod drain;
mod latency;
mod poll;
mod topic;

use clap::Args;
use debezium::Debezium;
use std::path::PathBuf;
use testbed::{Kafka, Postgres, RabbitMq};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Rows to drain in each round
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rows in each transaction, one table line per value
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    per_transaction: Vec<usize>,
    /// Queue types to publish to
    #[arg(long, value_delimiter = ',', default_value = "classic,quorum")]
    queues: Vec<String>,
    /// Leave RabbitMQ out
    #[arg(long)]
    no_rabbitmq: bool,
    /// Leave Kafka out
    #[arg(long)]
    no_kafka: bool,
    /// Transactions per second of the latency run
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Length of the latency run, seconds; 0 leaves it out
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Drain by Debezium in Kafka Connect as well; fetches them (41 MB) the first time
    #[arg(long)]
    debezium: bool,
    /// Only polling next to the log
    #[arg(long)]
    polling: bool,
}

/// The programs under measurement, built in release.
struct Programs {
    tailwater: PathBuf,
    bare_publisher: PathBuf,
    bare_producer: PathBuf,
    pg_recvlogical: PathBuf,
}

struct Bench {
    pg: Postgres,
    rabbit: Option<RabbitMq>,
    kafka: Option<Kafka>,
    debezium: Option<Debezium>,
    programs: Programs,
}

pub async fn run(args: BenchArgs) -> Result<(), String> {
    let programs = build()?;
    eprintln!("start private servers …");
    let queues = if args.no_rabbitmq || args.polling { vec![] } else { args.queues.clone() };
    let bench = Bench {
        pg: Postgres::start().await,
        rabbit: if queues.is_empty() { None } else { Some(RabbitMq::start().await) },
        kafka: if args.no_kafka || args.polling { None } else { Some(Kafka::start().await) },
        debezium: if args.debezium && !args.no_kafka && !args.polling { Some(Debezium::fetch()?) } else { None },
        programs,
    };
    let others = if args.polling { &[][..] } else { &args.per_transaction };
    for per_transaction in others {
        drain::run(&bench, args.rows, *per_transaction, args.rounds, &queues).await?;
    }
    if args.seconds > 0 && !args.polling {
        for queue in &queues {
            latency::run(&bench, queue, args.rate, args.seconds).await?;
        }
        if bench.kafka.is_some() {
            topic::floor(&bench, args.rate, args.seconds, None).await?;
            topic::floor(&bench, args.rate, args.seconds, Some("bare producer → Kafka (floor)")).await?;
            for exactly_once in [false, true] {
                topic::latency(&bench, args.rate, args.seconds, exactly_once).await?;
            }
        }
    }
    poll::run(&bench, args.rows, args.rounds, args.rate, args.seconds).await
}

fn build() -> Result<Programs, String> {
    eprintln!("build in release …");
    let status = std::process::Command::new("cargo")
        .args(["build", "--release", "--locked", "--package", "tailwater", "--bins"])
        .args(["--example", "bare_publisher", "--example", "bare_producer"])
        .status()
        .map_err(|error| format!("run cargo: {error}"))?;
    if !status.success() {
        return Err("the release build failed".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(Programs {
        tailwater: target.join("release/tailwater"),
        bare_publisher: target.join("release/examples/bare_publisher"),
        bare_producer: target.join("release/examples/bare_producer"),
        pg_recvlogical: testbed::postgres_program("pg_recvlogical"),
    })
}

impl Bench {
    /// A configuration for one measurement, with events for `topic`; returns the file's path inside `directory`.
    fn config(&self, directory: &std::path::Path, database: &str, slot: &str, topic: &str, sink: &str) -> PathBuf {
        let text = format!(
            "state_dir = \"{state}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[pipelines.bench.source]\ntype = \"postgres\"\n\
             url = \"{url}\"\nslot = \"{slot}\"\npublication = \"pub\"\ntable = \"outbox\"\n\
             [pipelines.bench.route.outbox]\nkey_column = \"aggregateid\"\nroute_by = \"aggregatetype\"\n\
             topic_replacement = \"{topic}\"\nexpand_json = true\n{sink}",
            state = directory.join("state").display(),
            url = self.pg.url(database),
        );
        let path = directory.join("bench.toml");
        std::fs::write(&path, text).expect("a temporary directory takes files");
        path
    }

    fn rabbit(&self) -> &RabbitMq {
        self.rabbit.as_ref().expect("started when it is measured")
    }

    fn rabbit_sink(&self, exchange: &str) -> String {
        format!(
            "[pipelines.bench.sink]\ntype = \"rabbitmq\"\nurls = [\"{}\"]\nexchange = \"{exchange}\"\n",
            self.rabbit().url()
        )
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
