//! Starts PostgreSQL, RabbitMQ and Kafka, runs the command that follows with their addresses in its environment, and ends with
//! its exit code: `with-servers cargo test`. The servers end with this program.

use std::process::{Command, ExitCode};
use testbed::{Kafka, Postgres, RabbitMq};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: with-servers COMMAND [ARGUMENT]…");
        return ExitCode::from(2);
    };
    let (postgres, rabbitmq, kafka) = tokio::join!(Postgres::start(), RabbitMq::start(), Kafka::start());
    let mut command = Command::new(&program);
    command.args(args).envs(postgres.share()).envs(rabbitmq.share()).envs(kafka.share());
    let status = tokio::task::spawn_blocking(move || command.status()).await.expect("not cancelled");
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot run {}: {error}", program.display());
            ExitCode::from(1)
        }
    }
}
