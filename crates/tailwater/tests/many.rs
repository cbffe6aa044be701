//! Many pipelines in one process, on real servers: blocked ones and huge ones beside one that must keep its pace and the
//! process that must keep its size; a process that waits for pipelines; `tailwater status` for all of them.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use lapin::types::FieldTable;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use testbed::{
    Child, Load, Postgres, Proxy, Rabbit, RabbitMq, eventually, free_port, http_get, note, shared_postgres,
    shared_rabbitmq, unique,
};

const LIMIT: Duration = Duration::from_secs(60);
const MEMORY_BYTES: u64 = 32 << 20;
/// Pipelines whose broker takes nothing.
const BLOCKED: usize = 4;

/// One process and its configuration file.
struct Scene {
    dir: tempfile::TempDir,
    http: u16,
    exchange: String,
}

impl Scene {
    async fn new(broker: &RabbitMq) -> Scene {
        let exchange = unique("many");
        let rabbit = Rabbit::connect(broker).await;
        rabbit.exchange(&exchange).await;
        let mut few = FieldTable::default();
        few.insert("x-max-length".into(), 10.into()); // what arrives is counted by the broker's confirms
        rabbit.queue_with(&exchange, few).await;
        rabbit.bind(&exchange, &exchange, "#").await;
        Scene { dir: tempfile::tempdir().unwrap(), http: free_port(), exchange }
    }

    fn head(&self) -> String {
        let state = self.dir.path().join("state");
        format!(
            "state_dir = \"{}\"\nmemory_bytes = {MEMORY_BYTES}\n[http]\nlisten = \"127.0.0.1:{}\"\n",
            state.display(),
            self.http
        )
    }

    fn pipeline(&self, name: &str, database: &str, postgres: &Postgres, broker: u16) -> String {
        format!(
            "[pipelines.{name}.source]\ntype = \"postgres\"\nurl = \"{}\"\nslot = \"{}\"\n\
             publication = \"outbox_pub\"\ntable = \"public.outbox\"\n\
             [pipelines.{name}.sink]\ntype = \"rabbitmq\"\nurls = [\"amqp://guest:guest@127.0.0.1:{broker}/%2f\"]\n\
             exchange = \"{}\"\n",
            postgres.url(database),
            unique("many"),
            self.exchange,
        )
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.dir.path().join("tailwater.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args([subcommand, "--config"]).arg(self.dir.path().join("tailwater.toml"));
        command
    }

    async fn status(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command("status");
        command.args(arguments);
        let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr))
    }

    /// What `/api/v1/status` says of a pipeline.
    async fn report(&self, name: &str) -> Option<serde_json::Value> {
        let answer = http_get(self.http, "/api/v1/status", None).await.ok()?.json();
        answer["pipelines"].as_array()?.iter().find(|pipeline| pipeline["name"] == name).cloned()
    }

    async fn until(&self, name: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        eventually(LIMIT, || async {
            let report = self.report(name).await?;
            note(&report);
            holds(&report).then_some(())
        })
        .await;
    }

    async fn count(&self, name: &str, count: &str) -> u64 {
        self.report(name).await.unwrap()["counts"][count].as_u64().unwrap()
    }
}

async fn database(postgres: &Postgres) -> String {
    let name = postgres.database("many").await;
    Load::prepare(postgres, &name).await;
    name
}

/// One transaction of so many rows of about `size` bytes.
async fn write(postgres: &Postgres, database: &str, rows: u32, size: u32) {
    let sql = format!(
        "insert into outbox select gen_random_uuid(), 'order', n::text, 'created', \
         jsonb_build_object('n', n, 'text', repeat('x', {size})) from generate_series(1, {rows}) n"
    );
    postgres.client(database).await.batch_execute(&sql).await.unwrap();
}

/// Resident memory, bytes.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Brokers that take nothing, giant transactions behind them, beside a pipeline that works: it keeps its pace, the process
/// its size; and once the brokers answer, everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_and_huge_pipelines_slow_nobody_and_fit_into_the_memory() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new(broker).await;
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], broker.amqp_port()))).await;
    let (quick, huge) = (database(postgres).await, database(postgres).await);
    let mut text = scene.head();
    for n in 0..BLOCKED {
        text.push_str(&scene.pipeline(&format!("blocked-{n}"), &huge, postgres, proxy.addr().port()));
    }
    text.push_str(&scene.pipeline("quick", &quick, postgres, broker.amqp_port()));
    scene.write(&text);
    let relay = Child::start(scene.command("run"));
    for name in (0..BLOCKED).map(|n| format!("blocked-{n}")).chain(["quick".into()]) {
        scene.until(&name, |report| report["state"] == "streaming").await;
    }
    let mut paces = Vec::new();
    let mut size = 0;
    for blocked in [false, true] {
        if blocked {
            proxy.blackhole();
            write(postgres, &huge, 20_000, 2_000).await;
            for n in 0..BLOCKED {
                scene.until(&format!("blocked-{n}"), |report| report["in_flight_bytes"].as_u64() > Some(1 << 20)).await;
            }
            size = resident(relay.pid());
        }
        let (start, before) = (Instant::now(), scene.count("quick", "published").await);
        write(postgres, &quick, 20_000, 500).await;
        scene.until("quick", |report| report["counts"]["published"].as_u64() >= Some(before + 20_000)).await;
        paces.push(start.elapsed());
        size = size.max(resident(relay.pid()));
    }
    println!("20,000 rows alone {:?}, beside blocked ones {:?}; resident {} MiB", paces[0], paces[1], size >> 20);
    assert!(
        paces[1] < 3 * paces[0] + Duration::from_secs(1),
        "alone {:?}, beside blocked ones {:?}",
        paces[0],
        paces[1]
    );
    let mut held = 0;
    for n in 0..BLOCKED {
        let report = scene.report(&format!("blocked-{n}")).await.unwrap();
        held += report["in_flight_bytes"].as_u64().unwrap();
        assert_eq!(report["counts"]["published"], 0);
    }
    // what was read is within the grants; the messages made of the last batches come on top
    assert!(held < 2 * MEMORY_BYTES, "{held} bytes in flight");
    assert!(size < 100 << 20, "{} MiB resident", size >> 20);
    proxy.restore();
    for n in 0..BLOCKED {
        scene.until(&format!("blocked-{n}"), |report| report["counts"]["published"].as_u64() >= Some(20_000)).await;
    }
    relay.term();
    assert_eq!(relay.wait(LIMIT).await.code(), Some(0));
}

/// A file with a port and no pipelines is a process that waits for them; with nothing at all there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_pipelines_waits_for_them_where_they_can_come() {
    let broker = shared_rabbitmq().await;
    let scene = Scene::new(broker).await;
    scene.write(&scene.head());
    let relay = Child::start(scene.command("run"));
    eventually(LIMIT, || async {
        (http_get(scene.http, "/health/ready", None).await.ok()?.status == 200).then_some(())
    })
    .await;
    let (code, out, err) = scene.status(&[]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("no pipelines yet"), "{err}");
    relay.term();
    assert_eq!(relay.wait(LIMIT).await.code(), Some(0));

    let mut nothing = Command::new(env!("CARGO_BIN_EXE_tailwater"));
    nothing.arg("run").current_dir(scene.dir.path());
    let ended = Child::start(nothing);
    assert_eq!(ended.wait(LIMIT).await.code(), Some(2));
    let said = ended.stderr().join("\n");
    assert!(said.contains("--from") && said.contains("[kafka]") && said.contains("connectors"), "{said}");

    scene.write("state_dir = \"x\"\n[http]\nlisten = \"\"\n");
    let ended = Child::start(scene.command("run"));
    assert_eq!(ended.wait(LIMIT).await.code(), Some(2), "nowhere to post to");
}

/// One fails, is shown as failed with what to do, and comes back by itself once that is done; the other never notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_pipeline_is_shown_and_comes_back_when_its_cause_is_gone() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new(broker).await;
    let (good, bad) = (database(postgres).await, database(postgres).await);
    let mut text = scene.head();
    text.push_str(&scene.pipeline("good", &good, postgres, broker.amqp_port()));
    text.push_str(&scene.pipeline("bad", &bad, postgres, broker.amqp_port()));
    postgres.client(&bad).await.batch_execute("alter publication outbox_pub rename to another").await.unwrap();
    scene.write(&text);
    let relay = Child::start(scene.command("run"));
    scene.until("good", |report| report["state"] == "streaming").await;
    scene.until("bad", |report| report["state"] == "failed" && report["retry_in_seconds"].is_u64()).await;
    let (code, out, err) = scene.status(&[]).await;
    assert_eq!(code, 3, "{out}{err}");
    for part in ["good: streaming, ready", "bad: failed, not ready", "what to do", "by itself in "] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    assert_eq!(scene.status(&["--pipeline", "good"]).await.0, 0);
    let (code, _, err) = scene.status(&["--pipeline", "goood"]).await;
    assert!(code == 2 && err.contains("bad, good"), "{err}");
    postgres.client(&bad).await.batch_execute("alter publication another rename to outbox_pub").await.unwrap();
    write(postgres, &bad, 10, 10).await;
    scene.until("bad", |report| report["state"] == "streaming").await;
    scene.until("bad", |report| report["counts"]["published"] == 10).await;
    relay.term();
    assert_eq!(relay.wait(LIMIT).await.code(), Some(0));
}
