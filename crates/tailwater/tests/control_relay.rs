//! A running relay seen from outside: ready or not while servers freeze (T48), `tailwater status`, pruning beside it.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use testbed::{
    Child, Postgres, Rabbit, RabbitMq, eventually, free_port, http_get, note, shared_postgres, shared_rabbitmq, unique,
};

const TABLE: &str = "create table outbox (id uuid primary key default gen_random_uuid(), event_type text not null, \
     occurred_at timestamptz not null default now(), idempotency_key text not null, payload jsonb not null); \
     create publication outbox_pub for table outbox with (publish = 'insert')";

/// A database, a queue, and a configuration for both.
struct Scene<'a> {
    postgres: &'a Postgres,
    broker: &'a RabbitMq,
    name: String,
    port: u16,
    dir: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    async fn new(postgres: &'a Postgres, broker: &'a RabbitMq, hint: &str) -> Scene<'a> {
        let name = postgres.database(hint).await;
        postgres.client(&name).await.batch_execute(TABLE).await.unwrap();
        let rabbit = Rabbit::connect(broker).await;
        rabbit.exchange(&name).await;
        rabbit.queue(&name, &name, &["report.#"]).await;
        Scene { postgres, broker, name, port: free_port(), dir: tempfile::tempdir().unwrap() }
    }

    fn config(&self, more: &str) -> PathBuf {
        let text = format!(
            r#"
state_dir = "{dir}"
[http]
listen = "127.0.0.1:{port}"
ready_window = "3s"
[pipelines.main.source]
type = "postgres"
url = "{url}"
slot = "{name}"
publication = "outbox_pub"
table = "outbox"
[pipelines.main.route.outbox]
route_by = "event_type"
key_column = "idempotency_key"
topic_replacement = "${{routedByValue}}"
[pipelines.main.sink]
type = "rabbitmq"
urls = ["{amqp}"]
exchange = "{name}"
heartbeat = "2s"
[pipelines.main.admin]
url = "{url}"
{more}
"#,
            dir = self.dir.path().join("state").display(),
            port = self.port,
            url = self.postgres.url(&self.name),
            name = self.name,
            amqp = self.broker.url(),
        );
        let path = self.dir.path().join("tailwater.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, more: &str) -> Child {
        self.run_with(more, &[])
    }

    fn run_with(&self, more: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(["run", "--config"]).arg(self.config(more)).args(arguments);
        Child::start(command)
    }

    async fn tailwater(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(arguments).arg("--config").arg(self.dir.path().join("tailwater.toml"));
        let ran: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr))
    }

    async fn publish(&self, kind: &str, count: u32) {
        let sql = format!(
            "insert into outbox (event_type, idempotency_key, payload) \
             select '{kind}', gen_random_uuid(), '{{}}' from generate_series(1, {count})"
        );
        self.postgres.client(&self.name).await.batch_execute(&sql).await.unwrap();
    }

    async fn rows(&self) -> i64 {
        let client = self.postgres.client(&self.name).await;
        client.query_one("select count(*) from outbox", &[]).await.unwrap().get(0)
    }

    /// Waits until `/health/ready` answers `status`, and gives its text.
    async fn until_ready_is(&self, status: u16, limit: Duration) -> String {
        eventually(limit, || async {
            let answer = http_get(self.port, "/health/ready", None).await.ok()?;
            note(&answer);
            (answer.status == status).then_some(answer.body)
        })
        .await
    }
}

/// Waits until the relay at `port` is in a state and ready. A first start is ready while it reads its snapshot, and the slot
/// is not there yet.
async fn until_state_is(port: u16, wanted: &str) -> serde_json::Value {
    eventually(Duration::from_secs(60), || async {
        let answer = http_get(port, "/api/v1/status", None).await.ok()?;
        note(&answer);
        let pipeline = answer.json()["pipelines"][0].clone();
        (pipeline["state"] == wanted && pipeline["ready"] == true).then_some(pipeline)
    })
    .await
}

/// T48
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_peer_makes_it_not_ready_within_the_window_and_it_recovers_alone() {
    let (postgres, broker) = (Postgres::start().await, RabbitMq::start().await);
    let scene = Scene::new(&postgres, &broker, "frozen").await;
    let relay = scene.run("");
    scene.until_ready_is(200, Duration::from_secs(60)).await;

    broker.freeze();
    let why = scene.until_ready_is(503, Duration::from_secs(5)).await;
    assert!(why.contains("the broker"), "{why}");
    assert_eq!(http_get(scene.port, "/health/live", None).await.unwrap().status, 200, "it lives all the same");
    broker.thaw();
    scene.until_ready_is(200, Duration::from_secs(60)).await;

    postgres.freeze();
    let why = scene.until_ready_is(503, Duration::from_secs(5)).await;
    assert!(why.contains("the database"), "{why}");
    postgres.thaw();
    scene.until_ready_is(200, Duration::from_secs(60)).await;

    scene.publish("report.requested", 3).await;
    let rabbit = Rabbit::connect(&broker).await;
    rabbit.take(&scene.name, 3, Duration::from_secs(10)).await;
    // and an idle one stays ready for longer than the window
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let answer = http_get(scene.port, "/health/ready", None).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    relay.term();
    assert!(relay.wait(Duration::from_secs(15)).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_what_a_relay_does_and_what_is_known_when_none_runs() {
    // Where others write, there is always a little log behind the position that is confirmed.
    let postgres = Postgres::start().await;
    let scene = Scene::new(&postgres, shared_rabbitmq().await, "status").await;
    scene.config("");
    let (code, out, err) = scene.tailwater(&["status"]).await;
    assert_eq!(code, 3, "{out}{err}");
    assert!(err.contains("no relay answers here") && out.contains("does not exist yet"), "{out}{err}");

    let relay = scene.run("");
    until_state_is(scene.port, "streaming").await;
    scene.publish("report.requested", 5).await;
    let report = eventually(Duration::from_secs(10), || async {
        let (code, out, err) = scene.tailwater(&["status", "--json"]).await;
        note((code, &out, &err));
        let report: serde_json::Value = serde_json::from_str(&out).ok()?;
        let pipeline = report["pipelines"][0].clone();
        (pipeline["counts"]["published"] == 5 && pipeline["lag_bytes"] == 0).then_some(pipeline)
    })
    .await;
    assert_eq!((&report["state"], &report["ready"]), (&"streaming".into(), &true.into()), "{report}");
    assert!(report["lsn"]["saved"].is_string() && report["lsn"]["confirmed"].is_string(), "{report}");

    // an event that no queue takes
    scene.publish("unroutable.thing", 1).await;
    let out = eventually(Duration::from_secs(10), || async {
        let (code, out, err) = scene.tailwater(&["status"]).await;
        note((code, &out, &err));
        (code == 3).then_some(out)
    })
    .await;
    for part in ["main: held, not ready", "topic unroutable.thing", "what to do"] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let metrics = http_get(scene.port, "/metrics", None).await.unwrap().body;
    assert!(metrics.contains(r#"tailwater_state{pipeline="main",state="held"} 1"#), "{metrics}");
    relay.kill9();
    let (code, out, err) = scene.tailwater(&["status"]).await;
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("not_running") && out.contains("nobody reads slot") && !out.contains("nothing yet"), "{out}");
}

/// A rolling update waits for the new one to be ready while the old one still holds the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_ready_and_names_the_holder() {
    let scene = Scene::new(shared_postgres().await, shared_rabbitmq().await, "standby").await;
    let first = scene.run("");
    until_state_is(scene.port, "streaming").await;
    let port = free_port();
    let state_dir = scene.dir.path().join("second").display().to_string();
    let listen = format!("http.listen=127.0.0.1:{port}");
    let _second = scene.run_with("", &["--set", &listen, "--state-dir", &state_dir]);
    let standby = until_state_is(port, "standby").await;
    assert!(standby["holder"].as_str().is_some_and(|holder| holder.contains("pid")), "{standby}");
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(400)).await; // for longer than the window
        assert_eq!(http_get(port, "/health/ready", None).await.unwrap().status, 200);
    }
    first.kill9();
    until_state_is(port, "streaming").await;
}

/// T49, with the relay itself: the schedule deletes what was delivered and keeps what is held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_beside_the_relay_keeps_what_was_not_delivered() {
    let scene = Scene::new(shared_postgres().await, shared_rabbitmq().await, "scheduled").await;
    let relay = scene.run("[pipelines.main.prune]\nevery = \"1s\"\nolder_than = \"0s\"\nbatch = 7\n");
    until_state_is(scene.port, "streaming").await;
    scene.publish("report.requested", 50).await;
    eventually(Duration::from_secs(15), || async { (scene.rows().await == 0).then_some(()) }).await;

    scene.publish("unroutable.thing", 1).await;
    scene.publish("report.requested", 5).await;
    relay.wait_for("held", Duration::from_secs(10)).await;
    let (code, out, err) = scene.tailwater(&["prune", "--older-than", "0s", "--wait", "3s"]).await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("has not confirmed") && err.contains("what to do"), "{err}");
    assert_eq!(scene.rows().await, 6, "the schedule had its turns too, and deleted none");

    let rabbit = Rabbit::connect(scene.broker).await;
    rabbit.bind(&scene.name, &scene.name, "unroutable.#").await;
    eventually(Duration::from_secs(30), || async { (scene.rows().await == 0).then_some(()) }).await;
    let delivered = rabbit.drain(&scene.name).await.len();
    assert!(delivered >= 56, "only {delivered} of 56");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_on_the_command_line_counts_first_and_deletes_then() {
    let scene = Scene::new(shared_postgres().await, shared_rabbitmq().await, "pruned").await;
    let _relay = scene.run("");
    until_state_is(scene.port, "streaming").await;
    scene.publish("report.requested", 20).await;
    let (code, out, err) = scene.tailwater(&["prune"]).await;
    assert_eq!((code, out.contains("0 rows of public.outbox deleted: older than 1d")), (0, true), "{out}{err}");
    let (code, out, err) = scene.tailwater(&["prune", "--older-than", "0s", "--dry-run"]).await;
    assert_eq!((code, out.contains("20 rows of public.outbox would be deleted")), (0, true), "{out}{err}");
    assert_eq!(scene.rows().await, 20);
    let (code, out, err) = scene.tailwater(&["prune", "--older-than", "0s", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
    assert_eq!((code, &report["rows"]), (0, &20.into()), "{out}{err}");
    assert_eq!(scene.rows().await, 0);
    let (code, _, err) = scene.tailwater(&["prune", "--pipeline", unique("no").as_str()]).await;
    assert_eq!((code, err.contains("the configuration has: main")), (2, true), "{err}");
}

/// T49: savepoints, prepared transactions, retention 0, `kill -9`. A second slot, which nobody moves, knows all that was
/// committed; whatever of it is not in the table any more has to be in the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_and_kills_the_schedule_never_runs_ahead_of_delivery() {
    let scene = Scene::new(shared_postgres().await, shared_rabbitmq().await, "killed").await;
    let (client, rabbit) = (scene.postgres.client(&scene.name).await, Rabbit::connect(scene.broker).await);
    let witness = unique("witness");
    let sql = "select pg_create_logical_replication_slot($1, 'test_decoding')";
    client.execute(sql, &[&witness]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let url = scene.postgres.url(&scene.name);
    let writers: Vec<_> =
        (0..3).map(|n| tokio::spawn(write(url.clone(), format!("{witness}_{n}"), stop.clone()))).collect();
    let mut delivered = HashSet::new();
    let mut pruned = 0;
    for round in 0..3 {
        let relay = scene.run("[pipelines.main.prune]\nevery = \"1s\"\nolder_than = \"0s\"\nbatch = 50\n");
        relay.wait_for("pruned", Duration::from_secs(60)).await;
        // delivery halts, the services go on, and the schedule has its turns
        let obstacle = format!("unroutable.{round}");
        scene.publish(&obstacle, 1).await;
        relay.wait_for("held", Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        relay.kill9();
        let committed = committed(&client, &witness).await;
        let rows = client.query("select id::text from outbox", &[]).await.unwrap();
        let kept: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
        delivered.extend(rabbit.drain(&scene.name).await.into_iter().filter_map(|message| message.message_id));
        pruned = committed.difference(&kept).count();
        let lost = committed.difference(&kept).filter(|id| !delivered.contains(*id)).count();
        assert_eq!(lost, 0, "of {pruned} deleted rows so many were never delivered");
        rabbit.bind(&scene.name, &scene.name, &obstacle).await;
    }
    stop.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(pruned > 100, "only {pruned} rows were pruned: the test shows nothing");
    client.execute("select pg_drop_replication_slot($1)", &[&witness]).await.unwrap();
}

/// Ids of all rows that were ever committed.
async fn committed(client: &tokio_postgres::Client, witness: &str) -> HashSet<String> {
    const INSERTS: &str = "select substring(data from $$id\\[uuid\\]:'([^']*)'$$) \
         from pg_logical_slot_peek_changes($1, null, null) where data like '%: INSERT:%'";
    client.query(INSERTS, &[&witness]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// One transaction after the other: savepoints kept and rolled back, prepared ones committed late, plain ones.
async fn write(url: String, name: String, stop: Arc<AtomicBool>) {
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let insert = "insert into outbox (event_type, idempotency_key, payload) \
         select 'report.requested', gen_random_uuid(), '{}'";
    let mut round = 0;
    while !stop.load(Relaxed) {
        round += 1;
        let name = format!("{name}_{round}");
        let (begin, end) = match round % 3 {
            0 => (insert.to_owned(), String::new()),
            1 => (
                format!("begin; savepoint a; {insert}; savepoint b; {insert}; rollback to b; savepoint c; {insert}"),
                "commit".into(),
            ),
            _ => (
                format!("begin; savepoint a; {insert}; prepare transaction '{name}'"),
                format!("commit prepared '{name}'"),
            ),
        };
        client.batch_execute(&begin).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.batch_execute(&end).await.unwrap();
    }
}
