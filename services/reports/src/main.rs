//! `reports api | worker | mailer | migrate`: parse, run until SIGTERM or Ctrl-C, exit code.

use clap::{Args, Parser, Subcommand};
use reports::{api, database, mail, worker};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The report service: an example around an outbox and an inbox.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// postgres://user:password@host:5432/database (from the environment rather than as an argument: arguments are visible)
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve POST /reports and GET /reports/{id}
    Api {
        #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Build exports from the queue, and send the mails
    Worker {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        mail: Mail,
        /// Leave the mails to a `mailer`
        #[arg(long)]
        no_mail: bool,
    },
    /// Only send the mails (beside a worker in another language)
    Mailer {
        #[command(flatten)]
        mail: Mail,
    },
    /// Create the tables
    Migrate {
        /// Also make this many users with some activity
        #[arg(long, default_value_t = 0)]
        sample_users: i64,
    },
}

#[derive(Args)]
struct Broker {
    /// amqp://user:password@host:5672/%2f
    #[arg(long, env = "AMQP_URL", hide_env_values = true, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp_url: String,
    #[arg(long, env = "QUEUE", default_value = "report-service")]
    queue: String,
    #[arg(long, env = "PREFETCH", default_value_t = 20)]
    prefetch: u16,
}

#[derive(Args)]
struct Mail {
    /// folder:/path, smtp://host:25 or smtps://user:password@host
    #[arg(long = "mail", env = "MAIL", hide_env_values = true, default_value = "folder:mails")]
    outlet: String,
    /// Seconds between two looks for new mails
    #[arg(long, env = "MAIL_PAUSE", default_value_t = 0.5)]
    mail_pause: f64,
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
            eprintln!("reports: {error}");
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
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    match cli.command {
        Command::Migrate { sample_users } => database::migrate(&pool, sample_users).await?,
        Command::Api { listen } => {
            let listener = tokio::net::TcpListener::bind(listen).await?;
            tracing::info!(address = %listener.local_addr()?, "api is listening");
            axum::serve(listener, api::router(pool)).with_graceful_shutdown(stop.cancelled_owned()).await?;
        }
        Command::Worker { broker, mail, no_mail } => {
            let Broker { amqp_url, queue, prefetch } = broker;
            let worker = worker::run(pool.clone(), worker::Options { amqp_url, queue, prefetch }, stop.clone());
            if no_mail {
                worker.await;
            } else {
                let outlet = mail::Outlet::parse(&mail.outlet)?;
                let mailer = tokio::spawn(mail::run(pool, outlet, pause(&mail)?, stop));
                worker.await;
                mailer.await?;
            }
        }
        Command::Mailer { mail } => {
            let outlet = mail::Outlet::parse(&mail.outlet)?;
            tracing::info!("mailer is running");
            mail::run(pool, outlet, pause(&mail)?, stop).await;
        }
    }
    Ok(())
}

fn pause(mail: &Mail) -> Result<Duration, String> {
    Duration::try_from_secs_f64(mail.mail_pause).map_err(|_| "--mail-pause must be a number of seconds".to_owned())
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
