//! `tailwater lab`: what each pattern loses, on private servers; and the hidden processes that it consists of.

use super::{DONE, FAILED, GlobalArgs, WRONG_USAGE};
use crate::lab::faults::Fault;
use crate::lab::pattern::Pattern;
use crate::lab::service::Places;
use crate::lab::{self, Plan};
use clap::Args;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Args)]
pub struct LabArgs {
    /// Decides orders, and the moments and the sequence of the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Orders, the same for each pattern [default: 3000, with --quick 600]
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    orders: Option<u32>,
    /// They come evenly over so long [default: 2m, with --quick 30s]
    #[arg(long, value_parser = within::<5, 3600>, value_name = "TIME")]
    load: Option<Duration>,
    /// So long the broker is away [default: 10s, with --quick 4s]
    #[arg(long, value_parser = within::<1, 600>, value_name = "TIME")]
    away: Option<Duration>,
    /// A shorter run: less load, and the broker is back sooner
    #[arg(long)]
    quick: bool,
    /// Only these patterns
    #[arg(long, value_enum, value_delimiter = ',')]
    patterns: Vec<Pattern>,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Where the page goes
    #[arg(long, short, default_value = "tailwater-lab.html", value_name = "FILE")]
    out: PathBuf,
}

/// A time of so many seconds at least and at most.
fn within<const MIN: u64, const MAX: u64>(text: &str) -> Result<Duration, String> {
    let time = tailwater_core::duration::parse(text)?;
    let allowed = Duration::from_secs(MIN)..=Duration::from_secs(MAX);
    if allowed.contains(&time) { Ok(time) } else { Err(format!("from {MIN}s to {MAX}s")) }
}

/// Arguments of the hidden processes. URLs come by environment: arguments are visible to everybody.
#[derive(Clone, Debug, Args)]
pub struct PartArgs {
    #[arg(value_enum)]
    pattern: Pattern,
    /// Write the orders that were heard of
    #[arg(long)]
    apply: bool,
    #[arg(long, env = "LAB_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[arg(long, env = "LAB_BOOTSTRAP")]
    bootstrap: String,
}

impl PartArgs {
    fn places(&self) -> Places {
        Places { pattern: self.pattern, database_url: self.database_url.clone(), bootstrap: self.bootstrap.clone() }
    }
}

/// The service under test.
pub fn service(args: &PartArgs) -> ExitCode {
    part(lab::service::run(args.places()))
}

/// A consumer.
pub fn consumer(args: &PartArgs) -> ExitCode {
    part(lab::consumer::run(args.places(), args.apply))
}

fn part(run: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>) -> ExitCode {
    let outcome = runtime().and_then(|runtime| runtime.block_on(run));
    match outcome {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => {
            eprintln!("tailwater: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Box<dyn std::error::Error + Send + Sync>> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Runs the lab. Exit code 1 if a pattern that promises it lost or invented something.
pub fn run(args: &LabArgs, global: &GlobalArgs) -> ExitCode {
    let given =
        std::env::args().skip(1).find(|a| ["--from", "--to"].contains(&a.split('=').next().unwrap_or_default()));
    if let Some(given) = given {
        let given = given.split('=').next().unwrap_or_default();
        eprintln!(
            "tailwater: {given}: the lab breaks its servers, so it starts private ones and uses none of yours; leave it out"
        );
        return ExitCode::from(WRONG_USAGE);
    }
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let say = |text: &str| {
        let (dim, plain) = if terminal { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        eprintln!("{dim}{:5.1} s{plain}  {text}", start.elapsed().as_secs_f64());
    };
    let outcome = runtime().and_then(|runtime| Ok(runtime.block_on(lab::run(plan(args), say))?));
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            eprintln!("tailwater: the lab did not come to its end: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let written = lab::page::html(&report, &command())
        .map_err(|error| error.to_string())
        .and_then(|page| std::fs::write(&args.out, page).map_err(|error| format!("{}: {error}", args.out.display())));
    if let Err(error) = written {
        eprintln!("tailwater: the page was not written: {error}");
        return ExitCode::from(FAILED);
    }
    let mut out = std::io::stdout().lock();
    let text = match global.json {
        true => serde_json::to_string_pretty(&report).map_err(|error| error.to_string()),
        false => Ok(lab::table::text(&report)),
    };
    let text = text.unwrap_or_else(|error| error);
    // a closed pipe is the reader's business
    let _ = writeln!(out, "{text}");
    say(&format!("the page: {}", args.out.display()));
    if report.promises_hold() {
        return ExitCode::from(DONE);
    }
    eprintln!("tailwater: a pattern that promises it did not keep what was committed: see the table");
    ExitCode::from(FAILED)
}

fn plan(args: &LabArgs) -> Plan {
    let (load, away, orders) = if args.quick { (30, 4, 600) } else { (120, 10, 3000) };
    let mut plan = Plan {
        seed: args.seed,
        patterns: Pattern::ALL.to_vec(),
        orders: args.orders.unwrap_or(orders) as usize,
        load: args.load.unwrap_or(Duration::from_secs(load)),
        away: args.away.unwrap_or(Duration::from_secs(away)),
        faults: Fault::ALL.to_vec(),
    };
    plan.patterns.retain(|pattern| args.patterns.is_empty() || args.patterns.contains(pattern));
    plan.faults.retain(|fault| args.faults.is_empty() || args.faults.contains(fault));
    plan
}

/// How to get this run again: all that decides it.
fn command() -> String {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    format!("tailwater {}", arguments.join(" "))
}
