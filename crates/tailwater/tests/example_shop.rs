//! examples/shop end to end: its schema, its configuration, its programs, on real servers.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use testbed::{Child, Rabbit, WorkDir, eventually, shared_postgres, shared_rabbitmq, unique};
use tokio_postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop").join(name)
}

/// A database and a virtual host of its own, with the relay running by the example's configuration.
struct Shop {
    db: Client,
    database_url: String,
    amqp_url: String,
    rabbit: Rabbit,
    config: PathBuf,
    relay: Child,
    slot: String,
    _dir: WorkDir,
}

impl Shop {
    async fn open() -> Shop {
        let (pg, mq) = (shared_postgres().await, shared_rabbitmq().await);
        let (database, virtual_host, slot) = (pg.database("shop").await, unique("shop"), unique("shop_slot"));
        let (db, database_url) = (pg.client(&database).await, pg.url(&database));
        for _ in 0..2 {
            // every statement may run again
            let mut psql = Command::new(testbed::postgres_program("psql"));
            let done = psql.args(["-X", "-q", "-d", &database_url, "-f"]).arg(example("schema.sql")).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        db.batch_execute("INSERT INTO stock VALUES ('hat', 100)").await.unwrap();
        let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
        mq.manage("PUT", &format!("/api/vhosts/{virtual_host}"), None).await;
        mq.manage("PUT", &format!("/api/permissions/{virtual_host}/guest"), Some(all)).await;
        let amqp_url = format!("amqp://guest:guest@127.0.0.1:{}/{virtual_host}", mq.amqp_port());

        let dir = WorkDir::new();
        let config = dir.path().join("tailwater.toml");
        let text = std::fs::read_to_string(example("tailwater.toml")).unwrap();
        let text = text.replace("amqp://guest:guest@localhost:5672/%2f", &amqp_url).replace("localhost", "127.0.0.1");
        let text = text.replace("5432", &pg.port().to_string()).replace("your_db", &database);
        std::fs::write(&config, text.replace(r#"slot = "shop""#, &format!("slot = \"{slot}\""))).unwrap();
        let mut relay = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        relay.arg("run").arg("--config").arg(&config).arg("--state-dir").arg(dir.path().join("state"));
        relay.args(["--set", &format!("http.listen=127.0.0.1:{}", testbed::free_port())]);
        let relay = Child::start(relay);
        let rabbit = Rabbit::connect_to(&amqp_url).await;
        let shop = Shop { db, database_url, amqp_url, rabbit, config, relay, slot, _dir: dir };
        shop.until_queue_exists().await;
        shop
    }

    async fn until_queue_exists(&self) {
        eventually(LIMIT, || async {
            let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
            let channel = self.rabbit.connection().create_channel().await.unwrap();
            channel.queue_declare("stock-service".into(), passive, Default::default()).await.ok().map(drop)
        })
        .await;
    }

    fn program(&self, program: &Path, arguments: &[&str]) -> Command {
        let is_python = program.extension().is_some_and(|extension| extension == "py");
        let mut command = if is_python { Command::new(testbed::python()) } else { Command::new("node") };
        command.arg(program).args(arguments);
        command.env("DATABASE_URL", &self.database_url).env("AMQP_URL", &self.amqp_url);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn dlq(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailwater"));
        command.arg("dlq").args(arguments).arg("--config").arg(&self.config).output().unwrap()
    }

    async fn stock(&self, item: &str) -> i32 {
        self.db.query_one("SELECT count FROM stock WHERE item = $1", &[&item]).await.unwrap().get(0)
    }

    async fn close(self) {
        self.relay.term();
        self.relay.wait(LIMIT).await;
        self.db.execute("SELECT pg_drop_replication_slot($1)", &[&self.slot]).await.unwrap();
    }
}

/// Both sides in one language: the folder with its programs, and their names.
async fn both_sides(place_order: &Path, consumer: &Path) {
    let shop = Shop::open().await;
    let worker = Child::start(shop.program(consumer, &[]));
    worker.wait_for("consuming", LIMIT).await;

    let order = shop.program(place_order, &["17", "hat"]).output().unwrap();
    assert!(order.status.success(), "{order:?}");
    let id = String::from_utf8(order.stdout).unwrap().trim().to_owned();
    worker.wait_for(&format!("done {id}"), LIMIT).await;
    let again = shop.program(place_order, &["17", "hat"]).output().unwrap();
    assert!(!again.status.success(), "the number is taken, and there must be no event");
    let events: i64 = shop.db.query_one("SELECT count(*) FROM outbox", &[]).await.unwrap().get(0);
    assert_eq!((events, shop.stock("hat").await), (1, 99));

    // The same event once more, as after a crash: known.
    let (to, properties) = ("stock-service".into(), BasicProperties::default().with_message_id(id.as_str().into()));
    let body = br#"{"number": 17, "item": "hat"}"#;
    let sent =
        shop.rabbit.channel().basic_publish("".into(), to, BasicPublishOptions::default(), body, properties).await;
    sent.unwrap().await.unwrap();
    worker.wait_for(&format!("known {id}"), LIMIT).await;
    assert_eq!(shop.stock("hat").await, 99);

    // Poison: a dead letter, whose cause is mended, and which is replayed. The pipeline's configuration knows the queue.
    assert!(shop.program(place_order, &["18", "unicorn"]).status().unwrap().success());
    eventually(LIMIT, || async { (shop.rabbit.count("stock-service-dead").await == 1).then_some(()) }).await;
    let listed = shop.dlq(&["list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("rejected in stock-service"), "{listed:?}");
    shop.db.batch_execute("INSERT INTO stock VALUES ('unicorn', 1)").await.unwrap();
    let replayed = shop.dlq(&["replay", "--all"]);
    assert!(replayed.status.success(), "{replayed:?}");
    eventually(LIMIT, || async { (shop.stock("unicorn").await == 0).then_some(()) }).await;
    worker.term();
    assert!(worker.wait(LIMIT).await.success(), "{:?}", worker.stderr());
    shop.close().await;
}

#[tokio::test]
async fn the_shop_in_python_has_one_effect_for_each_order() {
    both_sides(&example("python/place_order.py"), &example("python/consumer.py")).await;
}

/// Only where somebody has compiled it: `SHOP_TYPESCRIPT=examples/shop/typescript/dist cargo test --test example_shop`.
#[tokio::test]
async fn the_shop_in_typescript_has_one_effect_for_each_order() {
    let Some(dist) = std::env::var_os("SHOP_TYPESCRIPT").map(PathBuf::from) else { return };
    both_sides(&dist.join("place-order.js"), &dist.join("consumer.js")).await;
}

/// For a consumer that reads what an event is about (T46, T47): which transaction it was, and where in the log it is.
#[tokio::test]
async fn the_message_says_which_transaction_it_was_and_where() {
    let shop = Shop::open().await;
    let now = "SELECT pg_current_wal_insert_lsn()::text, (SELECT xid FROM outbox)";
    let before: String = shop.db.query_one(now, &[]).await.unwrap().get(0);
    let place_order = shop.program(&example("python/place_order.py"), &["1", "hat"]);
    assert!({ place_order }.status().unwrap().success());
    let row = shop.db.query_one(now, &[]).await.unwrap();
    let (after, xid): (String, String) = (row.get(0), row.get(1));
    let message = shop.rabbit.take("stock-service", 1, LIMIT).await.remove(0);
    assert_eq!((message.header("xid").as_deref(), &*message.routing_key), (Some(&*xid), "order.placed"));
    let lsn = message.header("lsn").unwrap();
    let between = "SELECT $1::text::pg_lsn < $2::text::pg_lsn AND $2::text::pg_lsn < $3::text::pg_lsn";
    assert!(
        shop.db.query_one(between, &[&before, &lsn, &after]).await.unwrap().get::<_, bool>(0),
        "{before} {lsn} {after}"
    );
    shop.close().await;
}
