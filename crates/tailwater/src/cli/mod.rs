//! The command line: one file per subcommand. Text for people on a terminal, `--json` for machines.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong usage or
//! configuration, 3 a check found something.

pub mod admin;
pub mod check;
pub mod completions;
pub mod demo;
pub mod dlq;
pub mod init;
#[cfg(feature = "lab")]
pub mod lab;
pub mod log;
mod notify;
pub mod prune;
pub mod run;
pub mod status;

use crate::config::flags::Flags;
use crate::config::load::{self, Inputs};
use crate::config::origin::{ConfigError, Loaded, Origin};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// 0: what was asked is done.
pub const DONE: u8 = 0;
/// 1: failed while running.
pub const FAILED: u8 = 1;
/// 2: wrong usage or configuration.
pub const WRONG_USAGE: u8 = 2;
/// 3: a check found something.
pub const FOUND: u8 = 3;

/// Publishes an event exactly when its transaction commits: PostgreSQL outbox to RabbitMQ or Kafka.
#[derive(Debug, Parser)]
#[command(name = "tailwater", version, propagate_version = true, max_term_width = 120)]
#[command(
    after_help = "Example:\n  tailwater check --config orders.toml\n  tailwater run --from postgres://relay@localhost/shop --to amqp://guest@localhost"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish what commits, until stopped
    #[command(
        after_help = "Example:\n  tailwater run --config orders.toml\n  tailwater run --from postgres://relay@localhost/shop --to stdout\n\nExit code: 0 stopped by signal and drained, 1 failed, 2 wrong configuration"
    )]
    Run,
    /// Show the effective configuration with the origin of each value, and what is wrong with it; connects to nothing
    #[command(
        after_help = "Example:\n  tailwater check --config application.properties\n  tailwater check --config orders.toml --json | jq .decisions\n\nExit code: 0 in order, 2 wrong configuration, 3 something was found"
    )]
    Check,
    /// Make what is missing in the database and at the broker, after showing it
    #[command(
        after_help = "Example:\n  tailwater init --config orders.toml --dry-run\n  TAILWATER_ADMIN_URL=postgres://postgres@localhost/shop tailwater init --config orders.toml\n\nExit code: 0 all is there, 1 refused, 2 wrong usage, 3 something differs and was left alone"
    )]
    Init(init::InitArgs),
    /// Say what a pipeline does, how far it is, and what to do
    #[command(
        after_help = "Example:\n  tailwater status --config orders.toml\n  tailwater status --config orders.toml --json | jq '.pipelines[].lag_bytes'\n\nExit code: 0 delivering, 1 cannot tell, 2 wrong usage, 3 not delivering"
    )]
    Status(status::StatusArgs),
    /// Delete outbox rows that are old enough and certainly delivered
    #[command(
        after_help = "Example:\n  tailwater prune --config orders.toml --older-than 7d --dry-run\n\nExit code: 0 done, 1 refused or not delivered far enough, 2 wrong usage"
    )]
    Prune(prune::PruneArgs),
    /// Look at dead letters, send them back to where they came from, or remove them
    #[command(
        after_help = "Example:\n  tailwater dlq list --from amqp://guest@localhost --queue report-service-dlq\n  tailwater dlq show 0199c0de-… --config orders.toml\n  tailwater dlq replay --reason rejected --newer-than 2d --rate 50/s --config orders.toml\n\nThe password belongs in the file or in TAILWATER_FROM.\n\nExit code: 0 done, 1 failed or some could not be replayed, 2 wrong usage, 3 `show` found none"
    )]
    Dlq(Box<dlq::DlqArgs>),
    /// Show on two servers that nothing is lost: events are written, the relay is killed, what arrived is counted
    #[command(
        after_help = "Example:\n  tailwater demo --from postgres://postgres@localhost/shop --to amqp://guest@localhost\n\nWhat it makes has names of its own and is removed at the end. With private servers: script/demo\n\nExit code: 0 all arrived, 1 not, 2 wrong usage"
    )]
    Demo(demo::DemoArgs),
    /// Show what each pattern loses: five ways to publish, the same faults, private servers, one table and one page
    #[cfg(feature = "lab")]
    #[command(
        after_help = "Example:\n  tailwater lab\n  tailwater lab --quick --seed 7 --out lab.html\n  tailwater lab --patterns database-first,log-tailing --faults broker-away\n\nServers: it breaks them on purpose, so it starts a PostgreSQL and a Kafka of its own on free ports, in a directory that is removed at the end; no server that runs here is touched. Needed: the PostgreSQL server programs, Java 17 or newer, and the jars of a Kafka broker, where script/setup puts them or in the directory that TAILWATER_KAFKA_LIBS names. As root the PostgreSQL server runs as the user postgres.\n\nExit code: 0 ours lost and invented nothing, 1 they did, or the lab failed, 2 wrong usage"
    )]
    Lab(lab::LabArgs),
    #[cfg(feature = "lab")]
    #[command(hide = true)]
    LabService(lab::PartArgs),
    #[cfg(feature = "lab")]
    #[command(hide = true)]
    LabConsumer(lab::PartArgs),
    /// Write a completion script for a shell
    #[command(after_help = "Example:\n  tailwater completions bash > /etc/bash_completion.d/tailwater")]
    Completions { shell: clap_complete::Shell },
}

/// Accepted by every subcommand.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// TOML file, or Debezium's application.properties
    #[arg(long, short, global = true, value_name = "FILE", env = "TAILWATER_CONFIG", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Read from this database, without a file; the password belongs in PGPASSWORD, the file or TAILWATER_FROM
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TAILWATER_FROM",
        hide_env_values = true,
        help_heading = "Configuration"
    )]
    pub from: Option<String>,
    /// Publish to this broker (amqp://, amqps://, kafka://), or to stdout as JSON lines
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TAILWATER_TO",
        hide_env_values = true,
        help_heading = "Configuration"
    )]
    pub to: Option<String>,
    /// Outbox table, schema.table or table [with --from: outbox]
    #[arg(long, global = true, help_heading = "Configuration")]
    pub table: Option<String>,
    /// Replication slot [with --from: outbox]
    #[arg(long, global = true, help_heading = "Configuration")]
    pub slot: Option<String>,
    /// Publication [with --from: outbox]
    #[arg(long, global = true, help_heading = "Configuration")]
    pub publication: Option<String>,
    /// Exchange to publish to [with --to: events]
    #[arg(long, global = true, help_heading = "Configuration")]
    pub exchange: Option<String>,
    /// Folder in which positions are kept
    #[arg(long, global = true, value_name = "DIR", help_heading = "Configuration")]
    pub state_dir: Option<String>,
    /// Any other setting, as `pipelines.NAME.delivery.window=500`; repeatable
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Configuration")]
    pub set: Vec<String>,
    /// Form of the log, on stderr
    #[arg(long, global = true, value_enum, default_value_t, env = "TAILWATER_LOG_FORMAT", help_heading = "Output")]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or per module: info,tailwater::sinks=debug
    #[arg(long, global = true, default_value = "info", env = "TAILWATER_LOG_LEVEL", help_heading = "Output")]
    pub log_level: String,
    /// Results as JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Colours: on a terminal only, unless told otherwise
    #[arg(long, global = true, value_enum, default_value_t, env = "TAILWATER_COLOR", help_heading = "Output")]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Whether to colour what goes to a stream.
    pub fn wanted(self, stream: &impl IsTerminal) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// Parses the arguments, runs the subcommand, maps its outcome to an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // help and version are asked for, everything else is wrong usage
            let code = if error.use_stderr() { WRONG_USAGE } else { DONE };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if let Err(error) = log::start(&cli.global) {
        eprintln!("tailwater: {error}");
        return ExitCode::from(WRONG_USAGE);
    }
    match cli.command {
        Command::Run => run::run(&cli.global),
        Command::Check => check::run(&cli.global),
        Command::Init(args) => init::run(&args, &cli.global),
        Command::Status(args) => status::run(&args, &cli.global),
        Command::Prune(args) => prune::run(&args, &cli.global),
        Command::Dlq(args) => dlq::run(&args, &cli.global),
        Command::Demo(args) => demo::run(&args, &cli.global),
        #[cfg(feature = "lab")]
        Command::Lab(args) => lab::run(&args, &cli.global),
        #[cfg(feature = "lab")]
        Command::LabService(args) => lab::service(&args),
        #[cfg(feature = "lab")]
        Command::LabConsumer(args) => lab::consumer(&args),
        Command::Completions { shell } => completions::run(shell),
    }
}

/// The configuration that the arguments, the file and the environment make together. Commands that need one start here:
///
/// ```text
/// let loaded = match load(&global) { Ok(loaded) => loaded, Err(error) => return refuse(&global, &error) };
/// ```
pub fn load(global: &GlobalArgs) -> Result<Loaded, ConfigError> {
    load::load(&inputs(global))
}

/// Says what is wrong with the configuration, on stderr (with `--json` on stdout), and gives exit code 2.
pub fn refuse(global: &GlobalArgs, error: &ConfigError) -> ExitCode {
    if global.json {
        println!("{}", serde_json::json!({ "ok": false, "problems": error.problems }));
    } else {
        for problem in &error.problems {
            eprintln!("tailwater: {problem}");
        }
    }
    ExitCode::from(WRONG_USAGE)
}

fn inputs(global: &GlobalArgs) -> Inputs {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let typed = |flag: &str| arguments.iter().any(|a| a == flag || a.starts_with(&format!("{flag}=")));
    let origin = |flag: &str, variable: &str| -> Origin { load::flag_origin(flag, variable, typed(flag)) };
    Inputs {
        file: global.config.clone(),
        flags: Flags {
            from: global.from.clone().map(|url| (url, origin("--from", "TAILWATER_FROM"))),
            to: global.to.clone().map(|url| (url, origin("--to", "TAILWATER_TO"))),
            table: global.table.clone(),
            slot: global.slot.clone(),
            publication: global.publication.clone(),
            exchange: global.exchange.clone(),
            state_dir: global.state_dir.clone(),
            set: global.set.clone(),
        },
        environment: std::env::vars_os()
            .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:\n  tailwater "), "{} has no example", command.get_name());
        }
    }
}
