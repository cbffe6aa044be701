//! The orders demonstration on private servers: `up` starts all services and leaves them running, [`mod@story`] tells what
//! happens when some are killed on the way.

mod story;

use clap::Args;
use std::path::PathBuf;
use testbed::orders::{Outcome, Ports, Stack};

pub use story::{StoryArgs, run as story};

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where each service's log goes
    #[arg(long, default_value = "logs")]
    logs: PathBuf,
}

/// Starts everything on its usual ports, says what runs where, and stays until Ctrl-C or SIGTERM.
pub async fn up(args: UpArgs) -> Outcome<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stack = Stack::start(Ports::usual(), &args.logs).await?;
    println!("{}", stack.addresses());
    println!("ready"); // start_all_services.sh waits for this line
    tokio::select! {
        _ = terminate.recv() => {}
        outcome = tokio::signal::ctrl_c() => outcome?,
    }
    stack.stop().await;
    Ok(())
}
