//! `tailwater demo`: the promise, shown on two given servers: events are written, the relay is killed in the middle, and
//! what arrived is counted. Everything it makes has a name of its own and is removed at the end.
//!
//! Not the report story with its workers (that is script/demo), and not a benchmark.

mod queue;

use super::{DONE, FAILED, GlobalArgs, WRONG_USAGE};
use crate::config::{SinkConfig, SourceConfig};
use crate::sources::postgres::connect;
use queue::DemoQueue;
use std::collections::BTreeSet;
use std::error::Error;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const LIMIT: Duration = Duration::from_secs(60);
const NEEDS: &str = "tailwater: the demo needs two servers\n  what to do: tailwater demo --from postgres://owner@host/db --to amqp://host \
                     (the owner may create a schema and has REPLICATION)\n  or, in the source tree, with private servers: script/demo";

#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Events to write
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub events: u32,
}

/// Exit code 0: everything arrived; 1: it did not, or a server refused; 2: wrong usage.
pub fn run(args: &DemoArgs, global: &GlobalArgs) -> ExitCode {
    let (Some(from), Some(to)) = (&global.from, &global.to) else {
        eprintln!("{NEEDS}");
        return ExitCode::from(WRONG_USAGE);
    };
    let name = format!("tailwater_demo_{}", std::process::id());
    let demo = GlobalArgs {
        config: None,
        table: Some(format!("{name}.outbox")),
        slot: Some(name.clone()),
        publication: Some(name.clone()),
        exchange: Some(name.clone()),
        ..global.clone()
    };
    let config = match super::load(&demo) {
        Ok(loaded) => loaded.config,
        Err(error) => return super::refuse(global, &error),
    };
    let Some((SourceConfig::Postgres(source), SinkConfig::Rabbitmq(sink))) =
        config.pipelines.into_values().next().map(|pipeline| (pipeline.source, pipeline.sink))
    else {
        eprintln!("{NEEDS}");
        return ExitCode::from(WRONG_USAGE);
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tailwater: start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let relay = |state: &std::path::Path| relay(&name, from, to, state);
    let told = runtime.block_on(async {
        let db = connect::sql(&source.connection).await?;
        let mut queue = DemoQueue::make(&sink, &name).await?;
        let told = tell(&db, &mut queue, &name, args.events, relay).await;
        let clean = clean(&db, &name).await.and(queue.delete().await.map_err(Into::into));
        told.and(clean)
    });
    match told {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => {
            eprintln!("tailwater: demo: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// A child process that does not outlive the demo.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This very program as the relay. The URLs may hold passwords: they travel in the environment, not as arguments.
fn relay(name: &str, from: &str, to: &str, state: &std::path::Path) -> Outcome<Relay> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--slot", name, "--publication", name, "--exchange", name]);
    command
        .args(["--table", &format!("{name}.outbox"), "--set", "http.listen=127.0.0.1:0"])
        .arg("--state-dir")
        .arg(state);
    command.env_remove("TAILWATER_CONFIG").env("TAILWATER_FROM", from).env("TAILWATER_TO", to);
    command.env("TAILWATER_LOG_LEVEL", "error").stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Relay(command.spawn()?))
}

async fn tell(
    db: &Client,
    queue: &mut DemoQueue,
    name: &str,
    events: u32,
    relay: impl Fn(&std::path::Path) -> Outcome<Relay>,
) -> Outcome<()> {
    let state = tempfile::tempdir()?;
    let start = Instant::now();
    let say = |text: &str| println!("{:5.1} s  {text}", start.elapsed().as_secs_f64());
    make(db, name).await?;
    say(&format!("Made: schema, publication and (at the start) slot `{name}`; exchange and queue of the same name."));
    let third = events / 3;
    let mut rolled_back = write(db, name, third).await?;
    say(&format!("{third} events are committed, each with its business row; every tenth transaction is rolled back."));
    let running = relay(state.path())?;
    say("The relay starts. What was there before goes out too.");
    let mut seen = Seen::default();
    seen.until(db, queue, name, third as usize / 2).await?;
    rolled_back += write(db, name, third).await?;
    drop(running);
    say(&format!("{third} more, and the relay gets kill -9 in the middle of it."));
    rolled_back += write(db, name, events - 2 * third).await?;
    let _running = relay(state.path())?;
    say(&format!("{} more while it is away; now it starts again.", events - 2 * third));
    seen.until(db, queue, name, events as usize).await?;
    let committed = committed(db, name).await?;
    say("Everything has arrived. The counts:\n");
    println!("         committed    {}", committed.len());
    println!("         delivered    {}   (missing: {})", seen.ids.len(), committed.difference(&seen.ids).count());
    println!(
        "         repeated     {}   (after kill -9; each with the same message id)",
        seen.messages - seen.ids.len()
    );
    println!(
        "         rolled back  {}   (of these delivered: {})\n",
        rolled_back,
        seen.ids.difference(&committed).count()
    );
    if seen.ids != committed {
        return Err("what was delivered is not what was committed".into());
    }
    println!("What is promised: docs/delivery.md. What a consumer sees: docs/message.md.");
    Ok(())
}

/// What came out of the queue so far.
#[derive(Default)]
struct Seen {
    ids: BTreeSet<String>,
    messages: usize,
}

impl Seen {
    /// Reads until so many different events have come and the queue is empty.
    async fn until(&mut self, db: &Client, queue: &mut DemoQueue, name: &str, count: usize) -> Outcome<()> {
        let start = Instant::now();
        loop {
            match queue.take().await? {
                Some(id) => {
                    self.messages += 1;
                    self.ids.insert(id);
                }
                None if self.ids.len() >= count => return Ok(()),
                None if start.elapsed() > LIMIT => {
                    let missing = committed(db, name).await?.difference(&self.ids).count();
                    return Err(format!("{missing} events have not arrived within {} s", LIMIT.as_secs()).into());
                }
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

async fn make(db: &Client, name: &str) -> Outcome<()> {
    let sql = format!(
        "CREATE SCHEMA {name};
         CREATE TABLE {name}.request (id uuid PRIMARY KEY);
         CREATE TABLE {name}.outbox (id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL,
                                     type text NOT NULL, payload jsonb NOT NULL);
         CREATE PUBLICATION {name} FOR TABLE {name}.outbox WITH (publish = 'insert')"
    );
    Ok(db.batch_execute(&sql).await?)
}

/// Commits transactions of a business row and an event each, and rolls one back for every nine; says how many.
async fn write(db: &Client, name: &str, events: u32) -> Outcome<u32> {
    let mut rolled_back = 0;
    for n in 0..events {
        let both = format!(
            "WITH new AS (INSERT INTO {name}.request VALUES (gen_random_uuid()) RETURNING id)
             INSERT INTO {name}.outbox SELECT id, 'demo', '{}', 'demo.requested', jsonb_build_object('n', {n}) FROM new",
            n % 7
        );
        if n % 9 == 8 {
            db.batch_execute(&format!("BEGIN; {both}; ROLLBACK")).await?;
            rolled_back += 1;
        }
        db.batch_execute(&format!("BEGIN; {both}; COMMIT")).await?;
    }
    Ok(rolled_back)
}

async fn committed(db: &Client, name: &str) -> Outcome<BTreeSet<String>> {
    let rows = db.query(&format!("SELECT id::text FROM {name}.request"), &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Removes what was made in the database; the slot as soon as its killed holder is gone.
async fn clean(db: &Client, name: &str) -> Outcome<()> {
    let start = Instant::now();
    let slot =
        format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'");
    while let Err(error) = db.execute(&slot, &[]).await {
        if start.elapsed() > Duration::from_secs(15) {
            return Err(format!("drop the slot {name}: {error}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(db.batch_execute(&format!("DROP PUBLICATION IF EXISTS {name}; DROP SCHEMA IF EXISTS {name} CASCADE")).await?)
}
