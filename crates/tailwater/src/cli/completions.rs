//! `tailwater completions SHELL`: a completion script on stdout.

use super::{Cli, DONE};
use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

/// Writes the script.
pub fn run(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tailwater", &mut script);
    // a reader that closes early (head) is no failure
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), &script);
    ExitCode::from(DONE)
}
