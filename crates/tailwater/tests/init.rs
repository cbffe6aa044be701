//! `tailwater init`, the real binary against real servers: what it shows, what it makes, what it leaves alone.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use testbed::{Postgres, PostgresOptions, shared_postgres, shared_rabbitmq, unique};

/// A configuration in a directory of its own.
struct Scene<'a> {
    postgres: &'a Postgres,
    database: String,
    role: String,
    table: String,
    sink: String,
    dir: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    async fn new(postgres: &'a Postgres, hint: &str) -> Scene<'a> {
        let (database, role) = (postgres.database(hint).await, unique("Relay Role"));
        Scene {
            postgres,
            database,
            role,
            table: "outbox".into(),
            sink: "type = \"stdout\"".into(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn config(&self) -> PathBuf {
        let text = format!(
            r#"
state_dir = "{dir}"
[http]
listen = ""
[pipelines.main.source]
type = "postgres"
host = "127.0.0.1"
port = {port}
dbname = "{database}"
user = "{role}"
password = "top-s3cret"
slot = "{database}"
publication = "Outbox Pub"
table = "{table}"
[pipelines.main.sink]
{sink}
[pipelines.main.route.outbox]
route_by = "event_type"
key_column = "idempotency_key"
expand_json = true
"#,
            dir = self.dir.path().display(),
            port = self.postgres.port(),
            database = self.database,
            role = self.role,
            table = self.table,
            sink = self.sink,
        );
        let path = self.dir.path().join("tailwater.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `tailwater init` as superuser, or as another role.
    fn init(&self, arguments: &[&str], admin: &str) -> Ran {
        let url = format!("postgres://{admin}@127.0.0.1:{}/{}", self.postgres.port(), self.database);
        let output = Command::new(env!("CARGO_BIN_EXE_tailwater"))
            .args(["init", "--config"])
            .arg(self.config())
            .args(arguments)
            .env("TAILWATER_ADMIN_URL", url)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran::of(output)
    }

    async fn client(&self) -> tokio_postgres::Client {
        self.postgres.client(&self.database).await
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

#[tokio::test]
async fn what_is_missing_is_shown_then_made_and_a_second_run_has_nothing_to_do() {
    let role = "relay_of_init_test";
    let hba = format!("host all {role} 127.0.0.1/32 scram-sha-256");
    let settings = vec![("log_statement", "all")];
    let postgres = Postgres::start_with(PostgresOptions { hba: vec![&hba], settings, ..Default::default() }).await;
    let scene = Scene { role: role.into(), ..Scene::new(&postgres, "init").await };
    let client = scene.client().await;

    let dry = scene.init(&["--dry-run"], "postgres");
    assert_eq!(dry.code, 0, "{dry:?}");
    for statement in
        ["CREATE TABLE public.outbox (", "CREATE PUBLICATION \"Outbox Pub\"", "PASSWORD '***'", "GRANT SELECT"]
    {
        assert!(dry.out.contains(statement), "{statement} in {}", dry.out);
    }
    let count =
        "select (select count(*) from pg_class where relname = 'outbox') + (select count(*) from pg_publication)";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 0, "a dry run changes nothing");

    let made = scene.init(&["--yes"], "postgres");
    assert_eq!((made.code, made.out.contains("Done.")), (0, true), "{made:?}");
    let slots = client.query("select from pg_replication_slots", &[]).await.unwrap();
    assert!(slots.is_empty(), "the slot belongs to run, together with its snapshot");
    let again = scene.init(&["--yes"], "postgres");
    assert_eq!((again.code, again.out.contains("nothing to do")), (0, true), "{again:?}");

    for ran in [&dry, &made, &again] {
        assert!(!ran.out.contains("s3cret") && !ran.err.contains("s3cret"), "{ran:?}");
    }
    assert!(!postgres.log().contains("s3cret"), "not even the server's log has it");
    let login = format!("postgres://{role}:top-s3cret@127.0.0.1:{}/{}", postgres.port(), scene.database);
    let (relay, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.expect("the password works");
    tokio::spawn(connection);
    relay.query("select * from outbox", &[]).await.expect("it may read the table");
    let wrong = login.replace("top-s3cret", "wrong");
    assert!(tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err());
}

#[tokio::test]
async fn with_nobody_to_ask_nothing_is_changed() {
    let scene = Scene::new(shared_postgres().await, "init_ask").await;
    let ran = scene.init(&[], "postgres");
    assert_eq!((ran.code, ran.err.contains("--yes")), (2, true), "{ran:?}");
    assert!(scene.client().await.query("select from pg_publication", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_publication_that_would_forbid_pruning_is_explained_and_left_alone() {
    let scene = Scene::new(shared_postgres().await, "init_deletes").await;
    let client = scene.client().await;
    client
        .batch_execute(
            "create table outbox (event_type text, user_id text, occurred_at timestamptz, idempotency_key text, payload jsonb);
             create publication \"Outbox Pub\" for table outbox",
        )
        .await
        .unwrap();
    let ran = scene.init(&["--yes"], "postgres");
    assert_eq!(ran.code, 3, "{ran:?}");
    let remedy = "ALTER PUBLICATION \"Outbox Pub\" SET (publish = 'insert');";
    assert!(ran.out.contains("PROBLEM") && ran.out.contains(remedy), "{}", ran.out);
    assert!(client.execute("delete from outbox", &[]).await.is_err(), "PostgreSQL indeed refuses it");
    client.batch_execute(remedy).await.unwrap();
    client.execute("delete from outbox", &[]).await.expect("the remedy works as printed");
    assert_eq!(scene.init(&["--yes"], "postgres").code, 0);
}

#[tokio::test]
async fn all_or_nothing_and_a_refusal_says_what_to_do() {
    let scene = Scene::new(shared_postgres().await, "init_refused").await;
    let client = scene.client().await;
    let owner = unique("owner");
    client
        .batch_execute(&format!("create role {owner} login; alter database {} owner to {owner}", scene.database))
        .await
        .unwrap();
    // it may create the table, and the publication, but no role with REPLICATION
    client.batch_execute(&format!("grant all on schema public to {owner}")).await.unwrap();
    let ran = scene.init(&["--yes"], &owner);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["CREATE ROLE", "'***'", "nothing was changed", "superuser"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    let tables = client.query("select from pg_class where relname = 'outbox'", &[]).await.unwrap();
    assert!(tables.is_empty(), "the table that was made before is gone too");
}

#[tokio::test]
async fn odd_names_are_only_names() {
    let mut scene = Scene::new(shared_postgres().await, "init_names").await;
    scene.table = "App's \\\"Schema\\\".Out; Box".into(); // as TOML has it
    let ran = scene.init(&["--yes"], "postgres");
    assert_eq!(ran.code, 0, "{ran:?}");
    let sql = "select has_table_privilege($1::name, '\"App''s \"\"Schema\"\"\".\"Out; Box\"', 'select')";
    assert!(scene.client().await.query_one(sql, &[&scene.role]).await.unwrap().get::<_, bool>(0));
    assert!(scene.init(&["--yes"], "postgres").out.contains("nothing to do"));
}

#[tokio::test]
async fn a_partitioned_table_needs_the_roots_name() {
    let scene = Scene::new(shared_postgres().await, "init_partitions").await;
    let client = scene.client().await;
    client
        .batch_execute(
            "create table outbox (event_type text, idempotency_key text, payload jsonb) partition by list (event_type);
             create table outbox_rest partition of outbox default;
             create publication \"Outbox Pub\" for table outbox with (publish = 'insert')",
        )
        .await
        .unwrap();
    let ran = scene.init(&["--yes"], "postgres");
    assert_eq!(ran.code, 3, "{ran:?}");
    let remedy = "ALTER PUBLICATION \"Outbox Pub\" SET (publish_via_partition_root = true);";
    assert!(ran.out.contains(remedy), "{}", ran.out);
    client.batch_execute(remedy).await.unwrap();
    assert_eq!(scene.init(&["--yes"], "postgres").code, 0);
}

/// The recipe's topology under names of this test; `{dead}` is where rejected messages go.
fn topology(broker: &testbed::RabbitMq, name: &str, dead: &str) -> String {
    format!(
        r#"type = "rabbitmq"
urls = ["{url}"]
exchange = "{name}"
management_url = "{management}"
[pipelines.main.sink.topology]
exchanges = [{{ name = "{name}" }}]
queues = [{{ name = "{name}-q", dead_letter = {{ {dead} }} }}, {{ name = "{name}-dlq" }}]
bindings = [{{ exchange = "{name}", queue = "{name}-q", routing_key = "report.*" }}]
"#,
        url = broker.url(),
        management = broker.management_url(),
    )
}

#[tokio::test]
async fn the_brokers_part_is_made_too_and_only_once() {
    let broker = shared_rabbitmq().await;
    let mut scene = Scene::new(shared_postgres().await, "init_broker").await;
    let name = unique("init-topology");
    scene.sink = topology(broker, &name, &format!("exchange = \"\", routing_key = \"{name}-dlq\""));
    let dry = scene.init(&["--dry-run"], "postgres");
    assert_eq!(dry.code, 0, "{dry:?}");
    for part in [format!("make exchange {name} "), format!("make queue {name}-q "), "rabbitmqadmin".into()] {
        assert!(dry.out.contains(&part), "{part} in {}", dry.out);
    }
    let made = scene.init(&["--yes"], "postgres");
    assert_eq!((made.code, made.out.contains("Done.")), (0, true), "{made:?}");
    let again = scene.init(&[], "postgres");
    let nothing = again.out.contains("database: nothing to do") && again.out.contains("broker: nothing to do");
    assert_eq!((again.code, nothing), (0, true), "{again:?}");
}

/// The recipe's literal form: `report.dlq` is matched by `report.*`.
#[tokio::test]
async fn dead_letters_that_would_run_in_circles_are_refused() {
    let broker = shared_rabbitmq().await;
    let mut scene = Scene::new(shared_postgres().await, "init_loop").await;
    let name = unique("init-loop");
    scene.sink = topology(broker, &name, &format!("exchange = \"{name}\", routing_key = \"report.dlq\""));
    let ran = scene.init(&["--yes"], "postgres");
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("endless loop") || ran.err.contains("endless loop"), "{ran:?}");
    let queues = broker.ctl(&["list_queues", "name"]).await;
    assert!(!format!("{queues:?}").contains(&name), "nothing is made: {queues:?}");
}

/// A server whose log cannot be read, a table without an order: what polling needs is made, with the least privileges, and
/// the program then runs with the role that was made.
#[tokio::test]
async fn a_polled_table_gets_its_order_its_trigger_and_a_role_without_replication() {
    let postgres =
        Postgres::start_with(PostgresOptions { settings: vec![("wal_level", "replica")], ..Default::default() }).await;
    let order = "ADD COLUMN seq bigint GENERATED ALWAYS";
    for (done, made_of) in [
        ("delete", [order, "CREATE TRIGGER tailwater_notify", "GRANT DELETE ON"]),
        ("mark\"\nmark_column = \"sent", [order, "(seq) WHERE sent IS NULL", "GRANT UPDATE (sent) ON"]),
    ] {
        let scene = Scene::new(&postgres, "init_poll").await;
        let client = scene.client().await;
        client
            .batch_execute("create table outbox (event_type text, idempotency_key text, payload jsonb, user_id int)")
            .await
            .unwrap();
        let config = scene.config();
        let of_log = format!("slot = \"{}\"\npublication = \"Outbox Pub\"\n", scene.database);
        let polling = std::fs::read_to_string(&config)
            .unwrap()
            .replace("type = \"postgres\"", &format!("type = \"postgres-poll\"\ninterval = \"60s\"\ndone = \"{done}\""))
            .replace(&of_log, "");
        let init = |arguments: &[&str]| {
            std::fs::write(&config, &polling).unwrap();
            let url = format!("postgres://postgres@127.0.0.1:{}/{}", postgres.port(), scene.database);
            let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
            command.arg(arguments[0]).arg("--config").arg(&config).args(&arguments[1..]);
            Ran::of(command.env("TAILWATER_ADMIN_URL", url).stdin(Stdio::null()).output().unwrap())
        };
        let made = init(&["init", "--yes"]);
        assert_eq!((made.code, made.out.contains("Done.")), (0, true), "{made:?}");
        for part in made_of {
            assert!(made.out.contains(part), "{part} in {}", made.out);
        }
        assert!(!made.out.contains("REPLICATION") && !made.out.contains("PUBLICATION"), "{}", made.out);
        let again = init(&["init", "--yes"]);
        assert_eq!((again.code, again.out.contains("database: nothing to do")), (0, true), "{again:?}");

        let before = init(&["status"]);
        assert!(before.out.contains("nobody polls"), "{before:?}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["run", "--config"]).arg(&config);
        let relay = testbed::Child::start(command);
        // the first may be found by the first look; the second is only by the trigger, since nobody looks for a minute
        for number in [1, 2] {
            let event = format!("insert into outbox values ('report.made', 'key-{number}', '{{\"a\": 1}}', 7)");
            client.batch_execute(&event).await.unwrap();
            relay.wait_for(&format!("key-{number}"), std::time::Duration::from_secs(30)).await;
        }
        let left = if done == "delete" { "select from outbox" } else { "select from outbox where sent is null" };
        let limit = std::time::Duration::from_secs(30);
        testbed::eventually(limit, || async { client.query(left, &[]).await.unwrap().is_empty().then_some(()) }).await;
        let running = init(&["status"]);
        assert!(running.out.contains("elsewhere") && running.out.contains("backend pid"), "{running:?}");
        relay.term();
        assert_eq!(relay.wait(limit).await.code(), Some(0), "{:?}", relay.stderr());
    }
}
