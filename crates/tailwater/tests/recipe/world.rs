//! The world of the recipe: a database made by examples/reports/schema.sql, a broker with the example's topology, the relay's
//! program on the example's properties file, Debian's Python for the worker.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testbed::{Child, Postgres, Rabbit, RabbitMq, WorkDir};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;

pub const LIMIT: Duration = Duration::from_secs(30);

/// Names in the recipe are fixed (slot, exchange, queues): one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

pub struct World {
    pub pg: &'static Postgres,
    pub mq: &'static RabbitMq,
    pub rabbit: Rabbit,
    pub db: Client,
    pub database: String,
    pub dir: WorkDir,
    _alone: MutexGuard<'static, ()>,
}

/// A file of the examples.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/reports").join(name)
}

impl World {
    /// The outbox with or without an `id` column, by the example's schema; ten users.
    pub async fn new(with_id: bool) -> World {
        let world = World::without_outbox().await;
        let more: &[&str] = if with_id { &["-v", "with_id=1"] } else { &[] };
        world.psql(&example("schema.sql"), more);
        world.psql(&example("schema.sql"), more); // may run again
        world.add_service().await;
        world
    }

    /// An empty database; the topology as it was meant.
    pub async fn without_outbox() -> World {
        let alone = ONE_AT_A_TIME.lock().await;
        let (pg, mq) = (testbed::shared_postgres().await, testbed::shared_rabbitmq().await);
        let database = pg.database("recipe").await;
        let db = pg.client(&database).await;
        drop_slot(&db).await;
        let rabbit = Rabbit::connect(mq).await;
        clear(mq, &rabbit).await;
        import(mq, &example("rabbitmq/definitions.json")).await;
        World { pg, mq, rabbit, db, database, dir: WorkDir::new(), _alone: alone }
    }

    /// The report service's own tables, and ten users.
    pub async fn add_service(&self) {
        self.psql(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services/reports/src/schema.sql"), &[]);
        let users = "INSERT INTO account SELECT n, 'user' || n || '@example.com' FROM generate_series(1, 10) n;
             INSERT INTO activity SELECT n, '2026-01-01Z', 'signed in', 'item ' || n FROM generate_series(1, 10) n";
        self.db.batch_execute(users).await.unwrap();
    }

    /// Runs an SQL file as the superuser.
    fn psql(&self, file: &Path, more: &[&str]) {
        let mut psql = Command::new(testbed::postgres_program("psql"));
        psql.args(["-X", "-q", "-d", &self.pg.url(&self.database), "-f"]).arg(file).args(more);
        let output = psql.output().expect("psql (apt-get install postgresql-client)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A command of the owner's, such as `init --yes`, on the properties file.
    pub fn admin(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.args(args).arg("--config").arg(self.at_home("application.properties"));
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.env("TAILWATER_ADMIN_URL", self.pg.url(&self.database)).output().unwrap()
    }

    /// A file of the examples with this world's host, port and database name in it, and nothing else changed.
    pub fn at_home(&self, name: &str) -> PathBuf {
        self.at_home_but(name, |text| text)
    }

    /// The same with a change.
    pub fn at_home_but(&self, name: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let text = std::fs::read_to_string(example(name)).unwrap();
        let text = change(text)
            .replace("localhost", "127.0.0.1")
            .replace("5432", &self.pg.port().to_string())
            .replace("5672", &self.mq.amqp_port().to_string())
            .replace("your_db", &self.database);
        let path = self.dir.path().join(testbed::unique("config") + "." + name.rsplit('.').next().unwrap());
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `tailwater run --config FILE`, with its state in this world's folder, once it streams.
    pub async fn relay(&self, config: &Path) -> Child {
        let relay = self.relay_started(config);
        testbed::eventually(LIMIT, || async {
            assert!(relay.ended().is_none(), "the relay ended:\n{}", relay.stderr().join("\n"));
            let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'outbox_slot'";
            let row = self.db.query_opt(active, &[]).await.unwrap();
            testbed::note(relay.stderr());
            row.is_some_and(|row| row.get(0)).then_some(())
        })
        .await;
        relay
    }

    /// The same, without waiting for anything.
    pub fn relay_started(&self, config: &Path) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        let listen = format!("http.listen=127.0.0.1:{}", testbed::free_port());
        command.arg("run").arg("--config").arg(config).arg("--state-dir").arg(self.dir.path().join("state"));
        command.args(["--set", &listen]).current_dir(self.dir.path());
        Child::start(command)
    }

    /// A report that is asked for: business row and outbox row in one transaction, as POST /reports does it.
    pub async fn ask(&self, key: &str, user_id: i64) {
        self.db
            .execute(
                "WITH asked AS (INSERT INTO report (id, idempotency_key, user_id) VALUES (gen_random_uuid(), $1, $2) RETURNING id)
                 INSERT INTO outbox (event_type, user_id, occurred_at, idempotency_key, payload)
                 SELECT 'report.requested', $2, now(), $1, jsonb_build_object('report_id', id, 'user_id', $2) FROM asked",
                &[&key, &user_id],
            )
            .await
            .unwrap();
    }

    /// An outbox row of any type.
    pub async fn say(&self, event_type: &str, key: &str) {
        let sql = "INSERT INTO outbox (event_type, user_id, occurred_at, idempotency_key, payload) VALUES ($1, 1, now(), $2, '{}')";
        self.db.execute(sql, &[&event_type, &key]).await.unwrap();
    }

    /// examples/reports/worker.py as it is, once it consumes.
    pub async fn python_worker(&self) -> Child {
        let worker = self.python_worker_started();
        worker.wait_for("worker is consuming", LIMIT).await;
        worker
    }

    /// The same, without waiting for anything.
    pub fn python_worker_started(&self) -> Child {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-u").arg(example("worker.py"));
        command.env("DATABASE_URL", self.pg.url(&self.database)).env("AMQP_URL", self.mq.url());
        Child::start(command)
    }

    pub async fn count(&self, what: &str) -> i64 {
        self.db.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
    }

    pub async fn until_count(&self, what: &str, expected: i64) {
        testbed::eventually(LIMIT, || async {
            let count = self.count(what).await;
            testbed::note(count);
            (count == expected).then_some(())
        })
        .await;
    }

    pub async fn until_depth(&self, queue: &str, expected: u32) {
        testbed::eventually(LIMIT, || async {
            let depth = self.rabbit.count(queue).await;
            testbed::note(depth);
            (depth == expected).then_some(())
        })
        .await;
    }
}

async fn drop_slot(db: &Client) {
    testbed::eventually(LIMIT, || async {
        let sql =
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'outbox_slot'";
        db.execute(sql, &[]).await.ok()
    })
    .await;
}

async fn clear(mq: &RabbitMq, rabbit: &Rabbit) {
    for queue in ["report-service", "report-service-dlq", "other"] {
        rabbit.delete_queue(queue).await;
    }
    mq.manage("DELETE", "/api/policies/%2F/report-service-dead-letters", None).await;
}

/// What the broker does at its start with `load_definitions`.
pub async fn import(mq: &RabbitMq, definitions: &Path) {
    let text = std::fs::read_to_string(definitions).unwrap();
    let _: Value = serde_json::from_str(&text).unwrap();
    let answer = mq.manage("POST", "/api/definitions", Some(&text)).await;
    assert!(answer.status < 300, "{answer:?}");
}
