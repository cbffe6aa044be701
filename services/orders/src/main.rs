//! `orders api | inventory | notification | migrate`: parse, run until SIGTERM or Ctrl-C, exit code.

use clap::{Parser, Subcommand};
use orders::downstream::{self, Service};
use orders::tables::Tables;
use orders::{api, consume, database, listener};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// The order services: an example around three ways to publish an event.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// postgres://user:password@host:5432/database (from the environment rather than as an argument: arguments are visible)
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Comma separated, host:port
    #[arg(long, env = "KAFKA_BOOTSTRAP", default_value = "127.0.0.1:9092")]
    kafka: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve POST /orders and GET /orders/{id}, and apply the orders of the pattern "listen to yourself"
    Api {
        #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8001")]
        listen: SocketAddr,
        /// Tables to show at /tables, each with the column that says what is newest; on a loopback address only
        #[arg(long, env = "TABLES")]
        tables: Option<Tables>,
    },
    /// Reserve what was ordered
    Inventory,
    /// Tell the customer
    Notification,
    /// Create the tables and the topics
    Migrate,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    let pool = database::pool(&cli.database_url)?;
    let kafka = consume::client(&cli.kafka);
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    match cli.command {
        Command::Migrate => {
            database::migrate(&pool).await?;
            database::create_topics(&kafka).await?;
        }
        Command::Api { listen, tables } => {
            if tables.is_some() && !listen.ip().is_loopback() {
                return Err(
                    format!("--tables shows rows to everybody who reaches {listen}: listen on 127.0.0.1").into()
                );
            }
            let socket = tokio::net::TcpListener::bind(listen).await?;
            tracing::info!(address = %socket.local_addr()?, "orders api is listening");
            let hear = listener::run(pool.clone(), kafka, stop.clone());
            let serve = axum::serve(socket, api::router(pool, tables)).with_graceful_shutdown(stop.cancelled_owned());
            let (heard, served) = tokio::join!(hear, serve.into_future());
            heard?;
            served?;
        }
        Command::Inventory => downstream::run(Service::Inventory, pool, kafka, stop).await?,
        Command::Notification => downstream::run(Service::Notification, pool, kafka, stop).await?,
    }
    Ok(())
}

/// The first signal drains; a second one ends the process as the system would.
async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be watched: stop with kill -9, which is safe");
        return;
    };
    for second in [false, true] {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if second {
            std::process::exit(130);
        }
        tracing::info!("stopping");
        stop.cancel();
    }
}
