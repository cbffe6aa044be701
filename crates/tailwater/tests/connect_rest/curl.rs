//! The three commands as people type them, with curl itself; and a connector that outlives its process.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testbed::{Child, Postgres, WorkDir, eventually, free_port, shared_kafka, shared_postgres, unique};

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
            "state_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n[kafka]\nbootstrap_servers = [\"{}\"]\n",
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
        eventually(Duration::from_secs(20), || async { self.curl(&[]).0.success().then_some(()) }).await;
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
