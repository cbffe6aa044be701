//! `tailwater init`: shows what is missing in the database and at the broker, asks, makes it. Safe to run again.

use super::admin::{self, AdminArgs};
use super::{DONE, FAILED, FOUND, GlobalArgs, WRONG_USAGE};
use crate::config::PipelineConfig;
use crate::setup::broker;
use crate::setup::plan::{Plan, Severity, Step};
use crate::setup::postgres::{self, Refused};
use crate::sources::postgres::connect;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Show the statements and do nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Exit code 0: everything is there now; 1: a server refused; 2: wrong usage; 3: something differs and was left alone.
pub fn run(args: &InitArgs, global: &GlobalArgs) -> ExitCode {
    admin::with_config(global, async |loaded| {
        let pipelines = match args.admin.pipelines(&loaded.config) {
            Ok(pipelines) => pipelines,
            Err(why) => return admin::wrong_usage(&why),
        };
        let mut worst = DONE;
        for (name, pipeline) in pipelines {
            worst = worst.max(init(args, name, pipeline).await);
            if matches!(worst, FAILED | WRONG_USAGE) {
                break;
            }
        }
        worst
    })
}

async fn init(args: &InitArgs, name: &str, pipeline: &PipelineConfig) -> u8 {
    let connection = match args.admin.connection(name, pipeline) {
        Ok(connection) => connection,
        Err(why) => return admin::wrong_usage(&why),
    };
    let mut client = match connect::sql(&connection).await {
        Ok(client) => client,
        Err(failure) => return failed(name, &failure.to_string()),
    };
    let wanted = match postgres::wanted(&client, pipeline).await {
        Ok(wanted) => wanted,
        Err(why) => return failed(name, &why),
    };
    let plan = match postgres::plan(&client, pipeline, &wanted).await {
        Ok(plan) => plan,
        Err(why) => return failed(name, &why),
    };
    let mut broker = match broker::look(pipeline).await {
        Ok(broker) => broker,
        Err(failure) => return failed(name, &failure.to_string()),
    };
    print!("{}{}", text(name, &wanted.database, &plan), broker.text());
    if (!plan.steps.is_empty() || broker.is_to_do()) && !args.dry_run {
        match agreed(args.yes) {
            Some(true) => {}
            Some(false) => {
                println!("Nothing was changed.");
                return FAILED;
            }
            None => return admin::wrong_usage("nobody to ask: add --yes to make these changes, or --dry-run"),
        }
        if let Err(refused) = postgres::apply(&mut client, &plan.steps).await {
            return failed(name, &explain(&refused));
        }
        if let Err(failure) = broker::apply(pipeline, &mut broker).await {
            return failed(name, &format!("the database is done, the broker is not: {failure}"));
        }
        println!("Done.");
    }
    if plan.has_problems() || broker.has_problems() { FOUND } else { DONE }
}

fn failed(name: &str, why: &str) -> u8 {
    eprintln!("tailwater: pipeline {name}: {why}");
    FAILED
}

/// What is shown before anything happens: statements that can be copied, then what differs.
fn text(name: &str, database: &str, plan: &Plan) -> String {
    let mut out = format!("-- pipeline {name}, database {database}\n");
    if plan.steps.is_empty() {
        out.push_str("-- database: nothing to do\n");
    }
    for Step { shown, .. } in &plan.steps {
        out.push_str(&format!("{shown};\n"));
    }
    for finding in &plan.findings {
        let label = if finding.severity == Severity::Problem { "PROBLEM" } else { "note" };
        out.push_str(&format!("-- {label}: {}\n", finding.text));
        if let Some(remedy) = &finding.remedy {
            out.push_str(&format!("--   mend it with: {remedy}\n"));
        }
    }
    out
}

/// `None`: there is no terminal to ask on.
fn agreed(yes: bool) -> Option<bool> {
    if yes {
        return Some(true);
    }
    if !std::io::stdin().is_terminal() {
        return None;
    }
    print!("Make these changes? [y/N] ");
    std::io::stdout().flush().ok()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn explain(refused: &Refused) -> String {
    let said = refused.source.as_db_error().map_or_else(|| refused.source.to_string(), |db| db.message().to_owned());
    let mut out = format!("{}\n  the server said: {said}; nothing was changed", refused.shown);
    if refused.is_permission {
        out.push_str(
            "\n  what to do: use an admin connection that may do this (roles with REPLICATION are made by a superuser, \
             publications by the table's owner), or hand the statements above to somebody who may",
        );
    }
    out
}
