//! The three commands as people type them, with curl itself; and a connector that outlives its process.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{Child, Postgres, WorkDir, eventually, free_port, http_get, shared_kafka, shared_postgres, unique};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connect process, its file, and a database with an outbox.
struct World {
    pg: &'static Postgres,
    database: String,
    dir: WorkDir,
    port: u16,
    slot: String,
}

impl World {
    async fn new() -> World {
        World::with("").await
    }

    /// `http`: more lines of the table `[http]`.
    async fn with(http: &str) -> World {
        let pg = shared_postgres().await;
        let database = pg.database("curl").await;
        let (slot, dir, port) = (unique("curl"), WorkDir::new(), free_port());
        pg.client(&database)
            .await
            .batch_execute(
                "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, \
                 aggregateid text NOT NULL, type text NOT NULL, payload jsonb NOT NULL); \
                 CREATE PUBLICATION outbox_pub FOR TABLE outbox WITH (publish = 'insert')",
            )
            .await
            .unwrap();
        let kafka = shared_kafka().await;
        let state = dir.path().join("state");
        let config = format!(
            "state_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n{http}\n[kafka]\nbootstrap_servers = [\"{}\"]\n",
            state.display(),
            kafka.bootstrap()
        );
        std::fs::write(dir.path().join("connect.toml"), config).unwrap();
        World { pg, database, dir, port, slot }
    }

    async fn process(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["run", "--config"]).arg(self.dir.path().join("connect.toml"));
        let child = Child::start(command);
        eventually(Duration::from_secs(20), || async { http_get(self.port, "/health/live", None).await.ok() }).await;
        child
    }

    fn connector(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("connector.json");
        let config = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "tasks.max": "1",
            "database.hostname": "127.0.0.1",
            "database.port": self.pg.port().to_string(),
            "database.user": "postgres",
            "database.password": "s3cret",
            "database.dbname": self.database,
            "topic.prefix": "shop",
            "plugin.name": "pgoutput",
            "slot.name": self.slot,
            "publication.name": "outbox_pub",
            "publication.autocreate.mode": "disabled",
            "table.include.list": "public.outbox",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "false",
            "transforms": "outbox",
            "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
            "transforms.outbox.route.topic.replacement": "${routedByValue}",
        });
        std::fs::write(&path, json!({ "name": "postgres-connector", "config": config }).to_string()).unwrap();
        path
    }

    /// `curl … http://localhost:PORT/connectors<last argument>`
    fn curl(&self, args: &[&str]) -> (std::process::ExitStatus, String) {
        let (path, options) = args.split_last().unwrap_or((&"", &[]));
        let url = format!("http://localhost:{}/connectors{path}", self.port);
        let output =
            Command::new("curl").args(["-sS", "--fail-with-body"]).args(options).arg(url).output().expect("curl");
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn post(&self, file: &Path) -> (std::process::ExitStatus, String) {
        let data = format!("@{}", file.display());
        self.curl(&["-X", "POST", "-H", "Content-Type: application/json", "-d", &data, ""])
    }

    async fn insert(&self, topic: &str, number: i32) {
        let sql =
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ($1, $2, 'made', $3::text::jsonb)";
        let payload = format!("{{\"number\": {number}}}");
        self.pg.client(&self.database).await.execute(sql, &[&topic, &number.to_string(), &payload]).await.unwrap();
    }

    async fn arrives(&self, topic: &str, count: usize) -> Vec<testbed::Record> {
        let kafka = shared_kafka().await;
        eventually(Duration::from_secs(30), || async {
            let records = kafka.records(topic).await;
            (records.len() >= count).then_some(records)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_is_posted_listed_and_deleted_with_curl_and_rows_flow_meanwhile() {
    let world = World::new().await;
    let topic = unique("orders");
    shared_kafka().await.create_topic(&topic, 1, &[]).await;
    let process = world.process().await;
    let (status, said) = world.post(&world.connector());
    assert!(status.success(), "{said}");
    assert!(!said.contains("s3cret"), "a password came back: {said}");
    assert_eq!(world.curl(&[""]).1, r#"["postgres-connector"]"#);
    world.insert(&topic, 1).await;
    assert!(world.arrives(&topic, 1).await[0].text().contains("number"));
    for path in ["/postgres-connector", "/postgres-connector/config", "/postgres-connector/tasks", "?expand=info"] {
        assert!(!world.curl(&[path]).1.contains("s3cret"), "{path}");
    }

    // kill -9: the connector is there again and goes on
    process.kill9();
    world.insert(&topic, 2).await;
    let process = world.process().await;
    world.insert(&topic, 3).await;
    let records = world.arrives(&topic, 3).await;
    let texts: std::collections::BTreeSet<_> = records.iter().map(|record| record.text().to_owned()).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");

    let (status, said) = world.curl(&["-X", "DELETE", "/postgres-connector"]);
    assert!(status.success(), "{said}");
    assert_eq!(world.curl(&[""]).1, "[]");
    process.term();
    assert!(process.wait(Duration::from_secs(20)).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_foreign_names_are_refused() {
    let world = World::new().await;
    let _process = world.process().await;
    let large = world.dir.path().join("large.json");
    std::fs::write(&large, json!({ "name": "x", "config": { "a": "b".repeat(2 << 20) } }).to_string()).unwrap();
    let (status, said) = world.post(&large);
    assert!(!status.success() && said.contains("413"), "{said}");
    let (status, said) = world.curl(&["-H", "Host: evil.example", ""]);
    assert!(!status.success() && said.contains("localhost"), "{said}");
    let typo = world.dir.path().join("typo.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(world.connector()).unwrap()).unwrap();
    config["config"]["slot.nmae"] = "x".into();
    std::fs::write(&typo, config.to_string()).unwrap();
    let (status, said) = world.post(&typo);
    assert!(!status.success() && said.contains("did you mean `slot.name`?"), "{said}");
}

/// A body that does not come, and one that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_not_waited_for_and_an_endless_one_not_read() {
    let world = World::new().await;
    let _process = world.process().await;
    let head =
        format!("POST /connectors HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n", world.port);
    let mut slow = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    slow.write_all(format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    let start = Instant::now();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    let took = start.elapsed().as_secs();
    assert!(&answer == b"HTTP/1.1 408" && took < 20, "{:?} after {took} s", String::from_utf8_lossy(&answer));

    let mut endless = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    endless.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    let mut sent = 0;
    while sent < 256 && endless.write_all(chunk.as_bytes()).await.is_ok() {
        sent += 1; // the answer comes, and the rest is no longer taken
    }
    assert!(sent < 256, "16 MB were taken");
}

/// With a token nothing is told and nothing is done without it; beyond loopback there is no port without one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_guards_everything_but_health() {
    let world = World::with("token = \"t0ken-of-the-port\"").await;
    let process = world.process().await;
    let (status, _) = world.post(&world.connector());
    assert!(!status.success());
    for path in ["", "?expand=info", "/x", "/x/status"] {
        let (status, said) = world.curl(&["-w", "%{http_code}", path]);
        assert!(!status.success() && said.ends_with("401"), "{path}: {said}");
    }
    let (status, said) = world.curl(&["-X", "DELETE", "-w", "%{http_code}", "/x"]);
    assert!(!status.success() && said.ends_with("401"), "{said}");
    let (status, said) = world.curl(&["-H", "Authorization: Bearer t0ken-of-the-port", ""]);
    assert!(status.success() && said == "[]", "{said}");
    drop(process);

    let file = world.dir.path().join("open.toml");
    std::fs::write(&file, format!("[http]\nlisten = \"0.0.0.0:{}\"\n", free_port())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    command.args(["run", "--config"]).arg(file);
    let refused = Child::start(command);
    assert_eq!(refused.wait(Duration::from_secs(20)).await.code(), Some(2));
    let said = refused.stderr().join("\n");
    assert!(said.contains("beyond loopback a token is needed: set http.token"), "{said}");
}

/// A configuration is read, changed and put back as it was shown: the mask means the secret that is known. Where none is
/// known the mask is refused. No answer, log line or readable file holds the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_never_comes_back_and_its_mask_means_it() {
    let world = World::new().await;
    let process = world.process().await;
    let topic = unique("masks");
    shared_kafka().await.create_topic(&topic, 1, &[]).await;
    assert!(world.post(&world.connector()).0.success());
    let (_, shown) = world.curl(&["/postgres-connector/config"]);
    let json = ["-X", "PUT", "-H", "Content-Type: application/json", "-d"];
    let (status, said) = world.curl(&[&json[..], &[shown.as_str(), "/postgres-connector/config"]].concat());
    assert!(status.success() && !said.contains("s3cret"), "{said}");
    world.insert(&topic, 1).await;
    world.arrives(&topic, 1).await;
    let (status, said) =
        world.curl(&[&json[..], &[shown.replace("postgres-connector", "copy").as_str(), "/copy/config"]].concat());
    assert!(!status.success() && said.contains("database.password") && said.contains("mask"), "{said}");
    let wrong = shown.replace("********", "wr0ng").replace("\"postgres\"", "\"nobody\"");
    let (status, said) = world.curl(&[&json[..], &[wrong.as_str(), "/postgres-connector/config"]].concat());
    assert!(!status.success() && !said.contains("wr0ng"), "{said}");
    for path in ["?expand=status&expand=info", "/postgres-connector/status", "/postgres-connector/offsets"] {
        assert!(!world.curl(&[path]).1.contains("s3cret"), "{path}");
    }
    process.term();
    process.wait(Duration::from_secs(20)).await;
    let log = [process.stderr(), process.stdout()].concat().join("\n");
    assert!(!log.contains("s3cret") && !log.contains("wr0ng"), "{log}");
    let kept = world.dir.path().join("state/connectors/postgres-connector.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "readable for others");
}

/// A pipeline of the file and a posted one: both flow, both are shown; the file's name is taken and not to be had over REST.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_of_the_file_and_posted_ones_run_side_by_side() {
    let world = World::new().await;
    let (posted, own) = (unique("posted"), unique("own"));
    for topic in [&posted, &own] {
        shared_kafka().await.create_topic(topic, 1, &[]).await;
    }
    let file = world.dir.path().join("connect.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let pipeline = format!(
        "{text}[pipelines.own.source]\ntype = \"postgres\"\nurl = \"{}\"\nslot = \"{}\"\npublication = \"outbox_pub\"\n\
         table = \"public.outbox\"\n[pipelines.own.route.outbox]\ntopic_replacement = \"{own}\"\n\
         [pipelines.own.sink]\ntype = \"kafka\"\n",
        world.pg.url(&world.database),
        unique("own"),
    );
    std::fs::write(&file, pipeline).unwrap();
    let _process = world.process().await;
    assert!(world.post(&world.connector()).0.success());
    world.insert(&posted, 1).await;
    world.arrives(&posted, 1).await;
    world.arrives(&own, 1).await;
    let mut status = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    status.args(["status", "--config"]).arg(&file);
    let said = String::from_utf8(status.output().unwrap().stdout).unwrap();
    assert!(said.contains("own: streaming") && said.contains("postgres-connector: streaming"), "{said}");
    assert_eq!(world.curl(&[""]).1, r#"["postgres-connector"]"#);
    let taken = std::fs::read_to_string(world.connector()).unwrap().replace("\"postgres-connector\"", "\"own\"");
    std::fs::write(world.dir.path().join("taken.json"), taken).unwrap();
    let (status, said) = world.post(&world.dir.path().join("taken.json"));
    assert!(!status.success() && said.contains("409"), "{said}");
    let (status, _) = world.curl(&["-X", "DELETE", "/own"]);
    assert!(!status.success(), "a pipeline of the file is deleted in the file");
}
