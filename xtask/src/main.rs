//! What only contributors run. `cargo xtask --help`.

mod bench;
mod broken;
mod connector;
mod demo;
mod many;
mod orders;
mod process;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Throughput and latency of the release binary next to the floor
    Bench(bench::BenchArgs),
    /// Many pipelines in one process: throughput of busy ones, memory of idle ones
    Many(many::ManyArgs),
    /// The report story on private servers (script/demo)
    Demo(demo::DemoArgs),
    /// A connector posted with curl, rows flow to Kafka (script/demo kafka)
    DemoKafka(connector::ConnectorArgs),
    /// All services of the orders demonstration, until Ctrl-C (start_all_services.sh)
    Orders(orders::UpArgs),
    /// The orders story: three patterns, with kills on the way (script/demo orders)
    DemoOrders(orders::StoryArgs),
    /// Puts bugs in on purpose and expects the tests to catch each
    Break(broken::BreakArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => runtime().block_on(bench::run(args)),
        Command::Many(args) => runtime().block_on(many::run(args)),
        Command::Demo(args) => runtime().block_on(demo::run(args)).map_err(|error| error.to_string()),
        Command::DemoKafka(args) => runtime().block_on(connector::run(args)).map_err(|error| error.to_string()),
        Command::Orders(args) => runtime().block_on(orders::up(args)).map_err(|error| error.to_string()),
        Command::DemoOrders(args) => runtime().block_on(orders::story(args)).map_err(|error| error.to_string()),
        Command::Break(args) => runtime().block_on(broken::run(args)).map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts")
}
