//! The orders demonstration on private servers: two order services, two pollers, the connect process with its connector,
//! inventory and notification, each program by its name. For its tests, its story and `start_all_services.sh`; no story here.

use crate::{Child, Kafka, Postgres, WorkDir, free_port, http_get, http_request, tailwater_binary};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Why the demonstration does not go on.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const DATABASE: &str = "postgres_outbox";
const TABLES: &str = "orders:created_at,Transactional_Outbox:created_at,Listen_To_Yourself:created_at,\
    Transactional_Log_Tailing:created_at,reservation:created_at,notification:created_at,inbox:handled_at";
const CONNECTOR: &str = "register-postgres.json";
const LIMIT: Duration = Duration::from_secs(60);

/// All programs, in the order in which they start.
pub const PROGRAMS: [&str; 7] =
    ["order-service-1", "order-service-2", "poller-1", "poller-2", "connect", "inventory", "notification"];

/// Where programs listen.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub services: [u16; 2],
    pub connect: u16,
}

impl Ports {
    /// Those that the documentation names; a free one where that is taken.
    pub fn usual() -> Ports {
        let free = |port: u16| match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => port,
            Err(_) => free_port(),
        };
        Ports { services: [free(8001), free(8002)], connect: free(8083) }
    }

    /// Any that are free: for a story beside others.
    pub fn any() -> Ports {
        Ports { services: [free_port(), free_port()], connect: free_port() }
    }
}

/// Everything that runs.
pub struct Stack {
    programs: BTreeMap<&'static str, Child>,
    pub db: Client,
    pub ports: Ports,
    pub kafka: Kafka,
    pg: Postgres,
    logs: PathBuf,
    dir: WorkDir,
}

impl Stack {
    /// Servers, tables, topics, all programs, and the connector, posted with curl.
    pub async fn start(ports: Ports, logs: &Path) -> Outcome<Stack> {
        std::fs::create_dir_all(logs)?;
        let (pg, kafka) = tokio::join!(Postgres::start(), Kafka::start());
        pg.client("postgres").await.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        let db = pg.client(DATABASE).await;
        let dir = WorkDir::new();
        let mut stack = Stack { programs: BTreeMap::new(), db, ports, kafka, pg, logs: logs.to_owned(), dir };
        let migrate = stack.orders().arg("migrate").output()?;
        if !migrate.status.success() {
            return Err(String::from_utf8_lossy(&migrate.stderr).into_owned().into());
        }
        stack.db.batch_execute(&example("setup.sql")?).await?;
        for name in ["pollers.toml", "connect.toml"] {
            std::fs::write(stack.dir.path().join(name), stack.adapted(&example(name)?))?;
        }
        std::fs::write(stack.logs.join(CONNECTOR), stack.adapted(&example(CONNECTOR)?))?;
        for name in PROGRAMS {
            stack.run(name);
        }
        stack.until_ready().await?;
        stack.register()?;
        stack.wait("the connector", async |stack| Ok(stack.connector_runs().await)).await?;
        Ok(stack)
    }

    /// An example file with this stack's ports instead of the usual ones.
    fn adapted(&self, text: &str) -> String {
        text.replace("localhost", "127.0.0.1")
            .replace("5432", &self.pg.port().to_string())
            .replace("9092", &self.kafka.port().to_string())
            .replace("8083", &self.ports.connect.to_string())
            .replace("tailwater-state", &self.dir.path().join("state").display().to_string())
    }

    fn orders(&self) -> Command {
        let mut command = Command::new(tailwater_binary().with_file_name("orders"));
        command.env("DATABASE_URL", self.pg.url(DATABASE)).env("KAFKA_BOOTSTRAP", self.kafka.bootstrap());
        command
    }

    fn relay(&self, file: &str) -> Command {
        let mut command = Command::new(tailwater_binary());
        command.arg("run").arg("--config").arg(self.dir.path().join(file));
        command
    }

    /// Starts a program, or starts it again.
    pub fn run(&mut self, name: &'static str) {
        let command = match name {
            "order-service-1" | "order-service-2" => {
                let port = self.ports.services[usize::from(name.ends_with('2'))];
                let mut command = self.orders();
                command.arg("api").env("LISTEN", format!("127.0.0.1:{port}")).env("TABLES", TABLES);
                command
            }
            "poller-1" | "poller-2" => {
                let mut command = self.relay("pollers.toml");
                command.arg("--state-dir").arg(self.dir.path().join(name));
                command
            }
            "connect" => self.relay("connect.toml"),
            service => {
                let mut command = self.orders();
                command.arg(service);
                command
            }
        };
        let log = self.logs.join(format!("{name}.log"));
        self.programs.insert(name, Child::start_logged(command, &log));
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        if let Some(program) = self.programs.remove(name) {
            program.kill9();
        }
    }

    async fn until_ready(&mut self) -> Outcome<()> {
        let up = async |port, path| http_get(port, path, None).await.is_ok_and(|answer| answer.status == 200);
        self.wait("the order services", async |stack| {
            let [one, two] = stack.ports.services;
            Ok(up(one, "/health").await && up(two, "/health").await)
        })
        .await?;
        self.wait("the connect process", async |stack| Ok(up(stack.ports.connect, "/connectors").await)).await
    }

    /// `curl -X POST -H "Content-Type: application/json" -d @register-postgres.json http://localhost:8083/connectors`; the file
    /// stays with the logs, to be posted by hand.
    fn register(&self) -> Outcome<()> {
        let file = format!("@{}", self.logs.join(CONNECTOR).display());
        let url = format!("http://127.0.0.1:{}/connectors", self.ports.connect);
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-X", "POST", "-H", "Content-Type: application/json", "-d", &file, &url])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(format!("the connector was not accepted: {}", String::from_utf8_lossy(&said)).into())
    }

    async fn connector_runs(&self) -> bool {
        let path = "/connectors/orders-connector/status";
        let Ok(answer) = http_get(self.ports.connect, path, None).await else { return false };
        answer.json()["tasks"][0]["state"] == "RUNNING"
    }

    /// Places an order; any of the services may take it, and one that is away is passed over. The same id makes asking
    /// again harmless. The answer's status.
    pub async fn place(&self, first: usize, pattern: &str, body: &Value) -> Outcome<u16> {
        let path = format!("/orders/{pattern}");
        let start = Instant::now();
        for turn in first.. {
            let port = self.ports.services[turn % 2];
            match post(port, &path, &body.to_string()).await {
                Ok(status @ (200..=202)) => return Ok(status),
                Ok(status) if status < 500 => return Err(format!("POST {path}: {status}").into()),
                other if start.elapsed() > LIMIT => return Err(format!("POST {path}: {other:?}").into()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        unreachable!("turns do not end")
    }

    /// Until `state`; an error if a program ends by itself, or after a minute.
    pub async fn wait(&self, what: &str, state: impl AsyncFn(&Stack) -> Outcome<bool>) -> Outcome<()> {
        let start = Instant::now();
        while !state(self).await? {
            if let Some((name, program)) = self.programs.iter().find(|(_, program)| program.ended().is_some()) {
                return Err(format!("{name} ended early:\n{}", tail(program)).into());
            }
            if start.elapsed() > LIMIT {
                let said: Vec<_> = self.programs.iter().map(|(name, p)| format!("-- {name}\n{}", tail(p))).collect();
                return Err(format!("{what}: not within {LIMIT:?}; the programs said:\n{}", said.join("\n")).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ends the programs in good order, then the servers.
    pub async fn stop(self) {
        self.programs.values().for_each(Child::term);
        for program in self.programs.values() {
            let start = Instant::now();
            while program.ended().is_none() && start.elapsed() < Duration::from_secs(15) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// What runs where.
    pub fn addresses(&self) -> String {
        let [one, two] = self.ports.services;
        let connect = self.ports.connect;
        let (pg, kafka) = (self.pg.url(DATABASE), self.kafka.bootstrap());
        let logs = self.logs.canonicalize().unwrap_or_else(|_| self.logs.clone());
        format!(
            "order services   http://127.0.0.1:{one}/orders  http://127.0.0.1:{two}/orders\n\
             tables           http://127.0.0.1:{one}/tables\n\
             connectors       http://127.0.0.1:{connect}/connectors\n\
             pollers          poller-1, poller-2 (Transactional_Outbox → Orders_1, Listen_To_Yourself → Orders_2)\n\
             consumers        inventory, notification (of Orders_1, Orders_2, Orders_3)\n\
             PostgreSQL       {pg}\n\
             Kafka            {kafka}\n\
             logs             {}/<service>.log",
            logs.display()
        )
    }
}

async fn post(port: u16, path: &str, body: &str) -> std::io::Result<u16> {
    let request = http_request("POST", port, path, None, Some(body));
    match tokio::time::timeout(Duration::from_secs(5), request).await {
        Ok(answer) => Ok(answer?.status),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

fn example(name: &str) -> Outcome<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/orders").join(name);
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// The last lines of a program.
fn tail(program: &Child) -> String {
    let lines = program.stderr();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}
