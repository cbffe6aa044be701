//! `tailwater prune`: deletes outbox rows that are old enough and certainly delivered.

use super::admin::{self, AdminArgs};
use super::{DONE, FAILED, GlobalArgs, WRONG_USAGE};
use crate::config::{Config, PipelineConfig, duration};
use crate::housekeeping::horizon::Reached;
use crate::housekeeping::prune::{self, Progress, Pruned, Rules};
use crate::sources::postgres::connect;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Delete rows older than this, such as 24h or 7d; 0s: whatever is delivered [default: the configuration's, else 24h]
    #[arg(long, value_name = "AGE", value_parser = duration::parse)]
    pub older_than: Option<Duration>,
    /// Column that holds a row's age [default: found by its name]
    #[arg(long, value_name = "COLUMN")]
    pub age_column: Option<String>,
    /// Rows per statement [default: the configuration's, else 5000]
    #[arg(long, value_name = "ROWS")]
    pub batch: Option<u32>,
    /// How long to wait for the relay to confirm what was committed so far
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "60s")]
    pub wait: Duration,
    /// Count the rows and delete none; nothing is written at all
    #[arg(long)]
    pub dry_run: bool,
}

/// Exit code 0: pruned; 1: a server refused, or delivery is not far enough; 2: wrong usage.
pub fn run(args: &PruneArgs, global: &GlobalArgs) -> ExitCode {
    admin::with_config(global, async |loaded| {
        let pipelines = match args.admin.pipelines(&loaded.config) {
            Ok(pipelines) => pipelines,
            Err(why) => return admin::wrong_usage(&why),
        };
        let mut worst = DONE;
        for (name, pipeline) in pipelines {
            match prune(args, &loaded.config, name, pipeline).await {
                Ok((rules, pruned)) => report(args, global, name, &rules, pruned),
                Err((code, why)) => {
                    eprintln!("tailwater: pipeline {name}: {why}");
                    worst = worst.max(code);
                }
            }
        }
        worst
    })
}

async fn prune(
    args: &PruneArgs,
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
) -> Result<(Rules, Pruned), (u8, String)> {
    let connection = args.admin.connection(name, pipeline).map_err(|why| (WRONG_USAGE, why))?;
    let client = connect::sql(&connection).await.map_err(|failure| (FAILED, failure.to_string()))?;
    let table = prune::table_of(&client, pipeline).await.map_err(|why| (WRONG_USAGE, why))?;
    let mut rules = Rules::of(config, pipeline, table);
    rules.older_than = args.older_than.unwrap_or(rules.older_than);
    rules.age_column = args.age_column.clone().or(rules.age_column);
    rules.batch = args.batch.unwrap_or(rules.batch);
    let pruned = prune::once(&client, &rules, args.wait, args.dry_run, show_progress()).await;
    let said = |error: &dyn std::error::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let pruned = pruned.map_err(|error| (FAILED, format!("{}\n  what to do: {}", said(&error), error.hint(&rules))))?;
    Ok((rules, pruned))
}

/// On a terminal only.
fn show_progress() -> impl FnMut(Progress<'_>) {
    let shown = std::io::stderr().is_terminal();
    move |progress| match progress {
        Progress::Waiting(Reached::NotYet { slot, behind_bytes, active }) if shown => {
            let idle = if *active { "" } else { ", nobody reads from it" };
            eprint!("\r\x1b[Kwaiting for slot {slot}: {behind_bytes} bytes to confirm{idle}");
        }
        Progress::Deleted(pruned) if shown => eprint!("\r\x1b[K{} rows deleted", pruned.rows),
        _ => {}
    }
}

fn report(args: &PruneArgs, global: &GlobalArgs, name: &str, rules: &Rules, pruned: Pruned) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let older_than = duration::format(rules.older_than);
    if global.json {
        let json = serde_json::json!({
            "pipeline": name, "table": rules.table.to_string(), "older_than": older_than,
            "dry_run": args.dry_run, "rows": pruned.rows, "batches": pruned.batches,
        });
        println!("{json}");
        return;
    }
    let verb = if args.dry_run { "would be deleted" } else { "deleted" };
    println!(
        "{name}: {} rows of {} {verb}: older than {older_than}, and delivered through {}",
        pruned.rows,
        rules.table,
        rules.slots.join(", ")
    );
}
