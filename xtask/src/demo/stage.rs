//! The stage of the demo: private servers, the example's files, the programs as child processes. No story.

use super::{Counts, NOBODY, Outcome};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{Child, Postgres, Rabbit, RabbitMq, WorkDir, http_get, http_request};
use tokio_postgres::Client;

const DATABASE: &str = "your_db";
/// A queue of the demo's own, beside the worker's, to see everything that reaches the broker.
const AUDIT: &str = "demo-audit";

pub struct Stage {
    relay: Option<Child>,
    programs: Vec<Child>,
    db: Client,
    rabbit: Rabbit,
    api_port: u16,
    relay_port: u16,
    asked: usize,
    seen: Vec<testbed::Received>,
    pg: Postgres,
    mq: RabbitMq,
    dir: WorkDir,
}

impl Stage {
    /// Servers, tables, topology and the API.
    pub async fn set(users: usize) -> Outcome<Stage> {
        let (pg, mq) = tokio::join!(Postgres::start(), RabbitMq::start());
        pg.client("postgres").await.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let schema = Command::new(testbed::postgres_program("psql"))
            .args(["-X", "-q", "-d", &pg.url(DATABASE), "-f"])
            .arg(example("schema.sql"))
            .output()?;
        if !schema.status.success() {
            return Err(String::from_utf8_lossy(&schema.stderr).into_owned().into());
        }
        let definitions = std::fs::read_to_string(example("rabbitmq/definitions.json"))?;
        let answer = mq.manage("POST", "/api/definitions", Some(&definitions)).await;
        if answer.status >= 300 {
            return Err(format!("RabbitMQ refuses the definitions: {}", answer.body).into());
        }
        let rabbit = Rabbit::connect(&mq).await;
        rabbit.queue(AUDIT, "events", &["report.*"]).await;
        let db = pg.client(DATABASE).await;
        let (api_port, relay_port) = (testbed::free_port(), testbed::free_port());
        let (relay, programs, seen) = (None, Vec::new(), Vec::new());
        let dir = WorkDir::new();
        let mut stage = Stage { relay, programs, db, rabbit, api_port, relay_port, asked: 0, seen, pg, mq, dir };
        stage.write_properties()?;
        let migrate = stage.reports().args(["migrate", "--sample-users", &users.to_string()]).output()?;
        if !migrate.status.success() {
            return Err(String::from_utf8_lossy(&migrate.stderr).into_owned().into());
        }
        let mut api = stage.reports();
        api.arg("api").env("LISTEN", format!("127.0.0.1:{api_port}"));
        stage.programs.push(Child::start(api));
        stage
            .wait("the API", Duration::from_secs(20), async |stage| {
                Ok(http_get(stage.api_port, "/health", None).await.is_ok_and(|answer| answer.status == 200))
            })
            .await?;
        Ok(stage)
    }

    fn write_properties(&self) -> Outcome<()> {
        let text = std::fs::read_to_string(example("application.properties"))?
            .replace("localhost", "127.0.0.1")
            .replace("5432", &self.pg.port().to_string())
            .replace("5672", &self.mq.amqp_port().to_string());
        Ok(std::fs::write(self.properties(), text)?)
    }

    pub fn properties(&self) -> PathBuf {
        self.dir.path().join("application.properties")
    }

    /// A file of the demo's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The idempotency key of the poison, which is its message id.
    pub async fn poison(&self) -> Outcome<String> {
        Ok(self.db.query_one("SELECT idempotency_key FROM outbox WHERE user_id = $1", &[&NOBODY]).await?.get(0))
    }

    fn mails(&self) -> PathBuf {
        self.dir.path().join("mails")
    }

    /// The service's program with the demo's settings.
    fn reports(&self) -> Command {
        let mut command = Command::new(testbed::tailwater_binary().with_file_name("reports"));
        command.env("DATABASE_URL", self.pg.url(DATABASE)).env("AMQP_URL", self.mq.url());
        command.env("MAIL", format!("folder:{}", self.mails().display())).env("PREFETCH", "1");
        command
    }

    pub fn start_relay(&mut self) {
        let mut command = Command::new(testbed::tailwater_binary());
        command.arg("run").arg("--config").arg(self.properties());
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.args(["--set", &format!("http.listen=127.0.0.1:{}", self.relay_port)]);
        self.relay = Some(Child::start(command));
    }

    pub fn kill_relay(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.kill9();
        }
    }

    /// SIGTERM, and its orderly end.
    pub async fn stop_relay(&mut self, limit: Duration) -> Outcome<()> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        relay.term();
        let status = relay.wait(limit).await;
        if status.success() { Ok(()) } else { Err(format!("the relay ended with {status}:\n{}", tail(&relay)).into()) }
    }

    /// One worker in each language and the mailer.
    pub fn start_workers(&mut self) {
        let mut rust = self.reports();
        rust.arg("worker");
        let mut python = Command::new(python());
        python.arg("-u").arg(example("worker.py"));
        python.env("DATABASE_URL", self.pg.url(DATABASE)).env("AMQP_URL", self.mq.url());
        self.programs.extend([Child::start(rust), Child::start(python)]);
    }

    /// Asks for `count` reports over HTTP.
    pub async fn ask(&mut self, count: usize, users: usize) -> Outcome<()> {
        for _ in 0..count {
            let user = i64::try_from(self.asked % users)? + 1;
            self.asked += 1;
            self.ask_for(user).await?;
        }
        Ok(())
    }

    pub async fn ask_for(&self, user: i64) -> Outcome<()> {
        let body = json!({ "user_id": user }).to_string();
        let answer = http_request("POST", self.api_port, "/reports", None, Some(&body)).await?;
        if answer.status == 202 {
            Ok(())
        } else {
            Err(format!("POST /reports: {} {}", answer.status, answer.body).into())
        }
    }

    /// Until so many reports are done.
    pub async fn until_done(&mut self, count: usize, limit: Duration) -> Outcome<()> {
        self.wait("the reports", limit, async |stage| Ok(stage.count("report WHERE status = 'done'").await? >= count))
            .await
    }

    /// Until the poison has failed, all mails are sent and the queue is empty.
    pub async fn until_quiet(&mut self, good: usize, limit: Duration) -> Outcome<()> {
        self.wait("the rest", limit, async |stage| {
            let failed = stage.count("report WHERE status = 'failed'").await?;
            let sent = stage.count("mail WHERE sent_at IS NOT NULL").await?;
            let queue = stage.rabbit.count("report-service").await;
            Ok(failed == 1 && sent >= good && queue == 0 && stage.rabbit.count("report-service-dlq").await > 0)
        })
        .await
    }

    /// Until so many mails are sent.
    pub async fn until_mailed(&mut self, count: usize, limit: Duration) -> Outcome<()> {
        self.wait("the mails", limit, async |stage| Ok(stage.count("mail WHERE sent_at IS NOT NULL").await? >= count))
            .await
    }

    async fn wait(&mut self, what: &str, limit: Duration, state: impl AsyncFn(&Stage) -> Outcome<bool>) -> Outcome<()> {
        let start = Instant::now();
        while !state(self).await? {
            let all = self.programs.iter().chain(&self.relay);
            if let Some(ended) = all.clone().find(|program| program.ended().is_some()) {
                return Err(format!("a program ended early:\n{}", tail(ended)).into());
            }
            if start.elapsed() > limit {
                let lines: Vec<_> = all.map(tail).collect();
                return Err(
                    format!("{what}: not within {limit:?}; the programs said:\n{}", lines.join("\n--\n")).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn count(&self, what: &str) -> Outcome<usize> {
        let count: i64 = self.db.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await?.get(0);
        Ok(usize::try_from(count)?)
    }

    pub async fn counts(&mut self) -> Outcome<Counts> {
        let audit = self.rabbit.drain(AUDIT).await;
        self.seen.extend(audit);
        let rows = self.db.query("SELECT idempotency_key FROM outbox", &[]).await?;
        Ok(Counts {
            committed: rows.iter().map(|row| row.get(0)).collect(),
            delivered: self.seen.iter().filter_map(|message| message.message_id.clone()).collect(),
            messages: self.seen.len(),
            done: self.count("report WHERE status = 'done'").await?,
            failed: self.count("report WHERE status = 'failed'").await?,
            mails: self.count("mail WHERE sent_at IS NOT NULL").await?,
            files: std::fs::read_dir(self.mails())?.filter(|entry| is_mail(entry.as_ref().ok())).count(),
            dead: usize::try_from(self.rabbit.count("report-service-dlq").await)?,
            waiting: usize::try_from(self.rabbit.count("report-service").await)?,
        })
    }

    /// One report on its way: the row, the message, the mail.
    pub async fn sample(&self) -> Outcome<String> {
        let sql = "SELECT o.idempotency_key, convert_from(e.csv, 'UTF8') FROM outbox o JOIN report r USING (idempotency_key) \
                   JOIN export e ON e.report_id = r.id WHERE o.user_id <> $1 ORDER BY o.occurred_at LIMIT 1";
        let row = self.db.query_one(sql, &[&NOBODY]).await?;
        let (key, csv): (&str, &str) = (row.get(0), row.get(1));
        let message = self.seen.iter().find(|message| message.message_id.as_deref() == Some(key));
        let body = message.map(|message| String::from_utf8_lossy(&message.body).into_owned()).unwrap_or_default();
        let mail = std::fs::read_to_string(self.mails().join(format!("{key}.eml")))?;
        let heads =
            mail.lines().filter(|line| ["Message-ID", "To:", "Subject"].iter().any(|name| line.starts_with(name)));
        let mut text = format!("         One of them, the message:   {body}\n");
        for line in heads {
            text.push_str(&format!("         its mail:                   {line}\n"));
        }
        for line in csv.lines().take(3) {
            text.push_str(&format!("         its export:                 {line}\n"));
        }
        Ok(text)
    }

    pub fn addresses(&self) -> String {
        format!(
            "  API        http://127.0.0.1:{}/reports\n  relay      http://127.0.0.1:{}/metrics\n  database   {}\n  RabbitMQ   {}\n  mails      {}",
            self.api_port,
            self.relay_port,
            self.pg.url(DATABASE),
            self.mq.management_url(),
            self.mails().display(),
        )
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/reports").join(name)
}

fn is_mail(entry: Option<&std::fs::DirEntry>) -> bool {
    entry.is_some_and(|entry| entry.path().extension().is_some_and(|extension| extension == "eml"))
}

/// The first interpreter that has the worker's packages.
fn python() -> &'static str {
    let has_packages = |program: &&str| {
        Command::new(program).args(["-c", "import pika, psycopg2"]).output().is_ok_and(|output| output.status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(has_packages).unwrap_or("python3")
}

/// The last lines of a program.
fn tail(program: &Child) -> String {
    let lines = program.stderr();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}
