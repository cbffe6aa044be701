//! The report story from end to end on private servers, told while it happens; it ends by itself and checks its own counts.
//!
//! Everything is the real thing: the example's files, the relay's program, the service, both workers. Not a test (those are
//! in the crates) and not a benchmark.

mod poison;
mod stage;

use clap::Args;
use stage::Stage;
use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Good reports to ask for
    #[arg(long, default_value_t = 300)]
    reports: usize,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// How long anything may take before the demo gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// A user who does not exist: the report that no worker can make.
const NOBODY: i64 = 999_999;
const USERS: usize = 50;

/// Tells the story; an error if a count is not what it must be.
pub async fn run(args: DemoArgs) -> Outcome<()> {
    let story = Story { start: Instant::now() };
    story.say("Starting a private PostgreSQL and a private RabbitMQ; this machine's own servers are left alone.");
    let mut stage = Stage::set(USERS).await?;
    story.say(
        "Set up: tables, role `debezium` (REPLICATION, SELECT on one table), publication   examples/reports/schema.sql",
    );
    story.say("        exchange, queue, dead-letter queue and policy                examples/reports/rabbitmq/definitions.json");
    story.say("        relay: a Debezium Server file, only host, port and database changed   examples/reports/application.properties");

    let third = (args.reports / 3).max(1);
    story.say(&format!("{third} reports are asked for before the relay has ever run: POST /reports → report row + outbox row, one transaction."));
    stage.ask(third, USERS).await?;
    stage.start_relay();
    stage.start_workers();
    story.say("Now start: the relay, a worker in Rust and a worker in Python (same queue, same inbox), a mailer.");
    stage.until_done(third / 2, LIMIT).await?;

    story.say(&format!("{third} more; in the middle the relay gets kill -9 and stays away for a moment."));
    stage.ask(third / 2, USERS).await?;
    stage.kill_relay();
    stage.ask(third - third / 2, USERS).await?;
    story.say("The relay starts again.");
    stage.start_relay();
    let rest = args.reports.saturating_sub(2 * third);
    stage.ask(rest / 2, USERS).await?;
    stage.kill_relay();
    story.say("kill -9 once more, and once more a start.");
    stage.start_relay();
    stage.ask_for(NOBODY).await?;
    story.say("One report is asked for a user who does not exist: poison, which no worker can make.");
    stage.ask(rest - rest / 2, USERS).await?;

    let good = 2 * third + rest;
    stage.until_done(good, LIMIT).await?;
    stage.until_quiet(good, LIMIT).await?;
    let counts = stage.counts().await?;
    story.say("Everything has come to rest. The counts:\n");
    print!("{}", table(&counts));
    println!("\n{}", stage.sample().await?);
    verdict(&counts, good, 1)?;
    story.say("Nothing is missing, nothing had its effect twice, the poison harmed nobody.\n");
    poison::mend(&story, &mut stage, good, LIMIT).await?;
    let counts = stage.counts().await?;
    story.say("The counts once more:\n");
    print!("{}", table(&counts));
    stage.stop_relay(LIMIT).await?;
    verdict(&counts, good + 1, 0)?;
    story.say("The poison's report is done, too; no dead letter is left.\n");
    println!("Where to look further:");
    println!("  examples/reports/README.md   the same with your own servers, or with compose.yaml");
    println!("  docs/delivery.md             what is promised, and what is not");
    println!("  docs/message.md              what a consumer sees");
    println!("  docs/consumers.md            inbox, retention, dead letters");
    println!("  script/test                  every promise as a test on real servers");
    if args.keep {
        stage.start_relay();
        println!("\nEverything runs on. Ctrl-C ends it.\n{}", stage.addresses());
        tokio::signal::ctrl_c().await?;
    }
    Ok(())
}

struct Story {
    start: Instant,
}

impl Story {
    fn say(&self, text: &str) {
        println!("{:5.1} s  {text}", self.start.elapsed().as_secs_f64());
    }
}

/// What the demo looks at in the end.
#[derive(Debug, Default)]
struct Counts {
    /// Committed outbox rows, by idempotency key.
    committed: BTreeSet<String>,
    /// Distinct events that reached the broker, seen on a queue of the demo's own.
    delivered: BTreeSet<String>,
    /// Messages that reached the broker, repeats included.
    messages: usize,
    done: usize,
    failed: usize,
    mails: usize,
    files: usize,
    dead: usize,
    waiting: usize,
}

fn table(counts: &Counts) -> String {
    let missing = counts.committed.difference(&counts.delivered).count();
    let rows = [
        ("outbox rows committed", counts.committed.len().to_string()),
        ("events at the broker", format!("{} (missing: {missing})", counts.delivered.len())),
        (
            "repeated after kill -9",
            format!("{} (same message id; the inbox takes them)", counts.messages - counts.delivered.len()),
        ),
        ("reports done / failed", format!("{} / {}", counts.done, counts.failed)),
        ("mails sent, files written", format!("{}, {}", counts.mails, counts.files)),
        ("in the dead-letter queue", counts.dead.to_string()),
        ("still waiting in the queue", counts.waiting.to_string()),
    ];
    rows.iter().map(|(name, value)| format!("         {name:<28}{value}\n")).collect()
}

fn verdict(counts: &Counts, good: usize, poison: usize) -> Outcome<()> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    must(counts.committed.len() == good + poison, "every request makes one outbox row");
    must(counts.delivered == counts.committed, "every committed row reaches the broker, and nothing else does");
    must((counts.done, counts.failed) == (good, poison), "every good report is done, the poison one has failed");
    must((counts.mails, counts.files) == (good, good), "one mail a report");
    must(counts.dead == poison, "the poison, and nothing else, is a dead letter");
    must(counts.waiting == 0, "nothing is left in the queue");
    if wrong.is_empty() { Ok(()) } else { Err(format!("this does not hold: {}", wrong.join("; ")).into()) }
}
