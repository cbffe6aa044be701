//! A connector's life on private servers, by curl, told while it happens: posted, asked, paused, kept over a `kill -9`,
//! deleted; a consumer prints what reaches Kafka. An error if a count is not what it must be.

use clap::Args;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{Child, Kafka, Postgres, WorkDir, free_port};
use tokio_postgres::Client;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const DATABASE: &str = "shop";
const TOPIC: &str = "order.events";
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct ConnectorArgs {
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Tells the story.
pub async fn run(args: ConnectorArgs) -> Outcome<()> {
    let start = Instant::now();
    let say = |text: &str| println!("\n{:5.1} s  {text}", start.elapsed().as_secs_f64());
    say("Starting a private PostgreSQL and a private Kafka; this machine's own servers are left alone.");
    let mut stage = Stage::set().await?;
    say("The outbox, the role that reads it, the publication   examples/connect/schema.sql");
    say("tailwater run --config connect.toml: a process without connectors   examples/connect/connect.toml");
    stage.start_relay().await?;

    say("A connector as it is written for Debezium   examples/connect/connector.json");
    stage.curl(&["-X", "POST", "-H", "Content-Type: application/json", "-d", "@connector.json"], "/connectors")?;
    stage.curl(&[], "/connectors")?;
    stage.running().await?;
    say(
        "Three orders, each in a transaction with its outbox row; one more transaction is rolled back. The consumer prints:",
    );
    stage.order(1, "hat", true).await?;
    stage.order(2, "coat", true).await?;
    stage.order(99, "nothing", false).await?;
    stage.order(1, "hat, paid", true).await?;
    stage.print(3).await?;

    say("Paused, an order is kept in the log; resumed, it goes out.");
    stage.curl(&["-X", "PUT"], "/connectors/postgres-connector/pause")?;
    stage.order(3, "scarf", true).await?;
    stage.curl(&["-X", "PUT"], "/connectors/postgres-connector/resume")?;
    stage.print(4).await?;

    say("kill -9 for the process; an order comes while it is away. It starts again, and still knows its connector.");
    stage.relay = None;
    stage.order(4, "gloves", true).await?;
    stage.start_relay().await?;
    stage.print(5).await?;
    stage.curl(&[], "/connectors/postgres-connector/status")?;

    if args.keep {
        say(&format!("Everything goes on until Ctrl-C. {}", stage.addresses()));
        tokio::signal::ctrl_c().await?;
    }
    say("Deleted.");
    stage.curl(&["-X", "DELETE"], "/connectors/postgres-connector")?;
    stage.curl(&[], "/connectors")?;
    stage.verdict().await?;
    say("Everything committed is in Kafka, nothing else. More: docs/connect.md");
    Ok(())
}

/// Servers, the process, and what the consumer has printed.
struct Stage {
    relay: Option<Child>,
    db: Client,
    port: u16,
    printed: BTreeSet<(i32, i64)>,
    pg: Postgres,
    kafka: Kafka,
    dir: WorkDir,
}

impl Stage {
    async fn set() -> Outcome<Stage> {
        let (pg, kafka) = tokio::join!(Postgres::start(), Kafka::start());
        pg.client("postgres").await.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let db = pg.client(DATABASE).await;
        db.batch_execute(&example("schema.sql")?).await?;
        db.batch_execute("CREATE TABLE orders (id int, item text)").await?;
        kafka.create_topic(TOPIC, 2, &[]).await;
        let stage =
            Stage { relay: None, db, port: free_port(), printed: BTreeSet::new(), pg, kafka, dir: WorkDir::new() };
        for name in ["connect.toml", "connector.json"] {
            let text = example(name)?
                .replace("localhost", "127.0.0.1")
                .replace("5432", &stage.pg.port().to_string())
                .replace("9092", &stage.kafka.port().to_string())
                .replace("8083", &stage.port.to_string())
                .replace("tailwater-state", &stage.dir.path().join("state").display().to_string());
            std::fs::write(stage.dir.path().join(name), text)?;
        }
        Ok(stage)
    }

    /// Starts the process, and waits until it answers.
    async fn start_relay(&mut self) -> Outcome<()> {
        let mut command = Command::new(testbed::tailwater_binary());
        command.args(["run", "--config"]).arg(self.dir.path().join("connect.toml"));
        let relay = Child::start(command);
        let start = Instant::now();
        while !testbed::http_get(self.port, "/connectors", None).await.is_ok_and(|answer| answer.status == 200) {
            if relay.ended().is_some() || start.elapsed() > LIMIT {
                return Err(format!("the process does not answer; it said:\n{}", relay.stderr().join("\n")).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.relay = Some(relay);
        Ok(())
    }

    /// Runs curl as shown, and shows the answer.
    fn curl(&self, options: &[&str], path: &str) -> Outcome<()> {
        let url = format!("http://localhost:{}{path}", self.port);
        let quoted = |option: &&str| if option.contains(' ') { format!("\"{option}\"") } else { (*option).to_owned() };
        let shown: Vec<String> = options.iter().map(quoted).collect();
        println!(
            "         $ curl {}",
            [shown.as_slice(), &[url.replace(&self.port.to_string(), "8083")]].concat().join(" ")
        );
        let output = Command::new("curl")
            .args(["-sS", "-w", "\n%{http_code}"])
            .args(options)
            .arg(&url)
            .current_dir(self.dir.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap_or((&said, ""));
        println!("           {status}  {}", shortened(body));
        if !output.status.success() || !status.starts_with('2') {
            return Err(format!("curl: {status} {body} {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }

    async fn running(&self) -> Outcome<()> {
        let start = Instant::now();
        loop {
            let answer = testbed::http_get(self.port, "/connectors/postgres-connector/status", None).await?;
            if answer.json()["tasks"][0]["state"] == "RUNNING" {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(format!("the connector does not run: {}", answer.body).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The service's transaction: the business row and the outbox row, both or neither.
    async fn order(&self, id: i32, item: &str, commit: bool) -> Outcome<()> {
        let end = if commit { "COMMIT" } else { "ROLLBACK" };
        let sql = format!(
            "BEGIN; INSERT INTO orders VALUES ({id}, '{item}'); \
             INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             VALUES ('order', '{id}', 'order.changed', jsonb_build_object('order', {id}, 'item', '{item}')); {end}"
        );
        Ok(self.db.batch_execute(&sql).await?)
    }

    /// The consumer: prints records until there are so many in all.
    async fn print(&mut self, count: usize) -> Outcome<()> {
        let start = Instant::now();
        while self.printed.len() < count {
            for record in self.kafka.records(TOPIC).await {
                if self.printed.insert((record.partition, record.offset)) {
                    let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
                    println!(
                        "           {TOPIC} [{}:{}]  key {key}  {}  {}",
                        record.partition,
                        record.offset,
                        record.header("eventType").unwrap_or("-"),
                        record.text(),
                    );
                }
            }
            if start.elapsed() > LIMIT {
                return Err(format!("{} of {count} records came within {LIMIT:?}", self.printed.len()).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// What lies in the topic is what the table holds.
    async fn verdict(&self) -> Outcome<()> {
        let rows = self.db.query("SELECT id::text FROM outbox", &[]).await?;
        let committed: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let records = self.kafka.records(TOPIC).await;
        let ids: Vec<&str> = records.iter().filter_map(|record| record.header("id")).collect();
        let arrived: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let missing = committed.difference(&arrived).count();
        let invented = arrived.difference(&committed).count();
        println!("\n         committed    {}", committed.len());
        println!("         in Kafka     {}   (missing: {missing}, not committed: {invented})", arrived.len());
        println!("         repeated     {}   (after kill -9, with the same id)", ids.len() - arrived.len());
        if missing + invented > 0 { Err("what is in Kafka is not what was committed".into()) } else { Ok(()) }
    }

    fn addresses(&self) -> String {
        format!(
            "REST: http://localhost:{}; Kafka: {}; PostgreSQL: {}",
            self.port,
            self.kafka.bootstrap(),
            self.pg.url(DATABASE)
        )
    }
}

/// A long answer is shown by its beginning.
fn shortened(body: &str) -> String {
    const WIDTH: usize = 160;
    let line = body.replace('\n', " ");
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line,
    }
}

fn example(name: &str) -> Outcome<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace lies above xtask")?;
    let path: PathBuf = root.join("examples/connect").join(name);
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}
