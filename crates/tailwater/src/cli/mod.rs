//! The command line: one file per subcommand. Text for people on a terminal, `--json` for machines.

use std::process::ExitCode;

/// Parses the arguments, runs the subcommand, maps its outcome to an exit code (0 done, 1 failed while running, 2 wrong
/// usage or configuration, 3 a check found something).
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
