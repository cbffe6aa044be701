//! Pruning against a real server. The relay is played by a reader of the slot that notes what it delivered before it
//! confirms, so that the oracle is exact: nothing may be deleted that is not in its notes.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tailwater::housekeeping::horizon::{self, Reached};
use tailwater::housekeeping::prune::{self, PruneError, Pruned, Rules};
use tailwater::setup::sql::TableName;
use testbed::{Postgres, StopMode, shared_postgres, unique};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

const TABLE: &str =
    "create table outbox (id bigserial primary key, occurred_at timestamptz not null default now(), v text)";

struct Scene<'a> {
    postgres: &'a Postgres,
    database: String,
    slot: String,
}

impl<'a> Scene<'a> {
    async fn new(postgres: &'a Postgres, hint: &str, table: &str) -> Scene<'a> {
        let database = postgres.database(hint).await;
        let scene = Scene { postgres, database, slot: unique("prune") };
        let client = scene.client().await;
        client.batch_execute(table).await.unwrap();
        scene.add_slot(&client, &scene.slot).await;
        scene
    }

    async fn client(&self) -> Client {
        self.postgres.client(&self.database).await
    }

    async fn add_slot(&self, client: &Client, slot: &str) {
        let sql = "select pg_create_logical_replication_slot($1, 'test_decoding')";
        client.execute(sql, &[&slot]).await.unwrap();
    }

    fn rules(&self) -> Rules {
        Rules {
            table: TableName::parse("outbox"),
            slots: vec![self.slot.clone()],
            older_than: Duration::ZERO,
            age_column: None,
            timestamp_column: None,
            batch: 50,
        }
    }

    fn reader(&self, slot: &str) -> Reader {
        Reader { url: self.postgres.url(&self.database), slot: slot.into(), ..Reader::default() }
    }
}

/// Delivers what a slot has: notes the rows, then confirms.
#[derive(Clone, Default)]
struct Reader {
    url: String,
    slot: String,
    delivered: Arc<Mutex<HashSet<i64>>>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn start(&self) -> JoinHandle<()> {
        let this = self.clone();
        this.stop.store(false, Relaxed);
        tokio::spawn(async move {
            let (client, connection) = tokio_postgres::connect(&this.url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            while !this.stop.load(Relaxed) {
                this.step(&client).await;
            }
        })
    }

    async fn crash(&self, task: JoinHandle<()>) {
        self.stop.store(true, Relaxed);
        task.await.unwrap();
    }

    /// One round; at most some hundred rows, so that a reader under load is always a little behind.
    async fn step(&self, client: &Client) {
        const PEEK: &str = "select lsn, data from pg_logical_slot_peek_changes($1, null, 200)";
        const ADVANCE: &str = "select pg_replication_slot_advance($1, least($2, pg_current_wal_flush_lsn()))";
        let flushed: PgLsn = client.query_one("select pg_current_wal_flush_lsn()", &[]).await.unwrap().get(0);
        let rows = client.query(PEEK, &[&self.slot]).await.unwrap();
        let mut upto = rows.is_empty().then_some(flushed); // idle: all there was by then holds nothing for us
        let mut delivered = self.delivered.lock().await;
        for row in &rows {
            let data: &str = row.get(1);
            if data.starts_with("table ") {
                let id = data.split("id[bigint]:").nth(1).and_then(|rest| rest.split(' ').next());
                if data.contains(": INSERT:") {
                    delivered.insert(id.unwrap().parse().unwrap());
                }
            } else if data.starts_with("COMMIT") {
                upto = Some(row.get(0));
            }
        }
        drop(delivered);
        if let Some(upto) = upto {
            client.execute(ADVANCE, &[&self.slot, &upto]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn run(client: &Client, rules: &Rules, limit: Duration) -> Result<Pruned, PruneError> {
    prune::once(client, rules, limit, false, |_| {}).await
}

async fn ids(client: &Client) -> HashSet<i64> {
    client.query("select id from outbox", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Inserts until told to stop: plain, with savepoints kept and rolled back, prepared and committed later.
fn writer(url: String, number: usize, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
        let mut round = 0;
        while !stop.load(Relaxed) {
            round += 1;
            let name = format!("p_{number}_{round}");
            match (round + number) % 4 {
                0 => client.batch_execute("insert into outbox (v) values ('a'), ('b')").await.unwrap(),
                1 => {
                    client.batch_execute("begin; savepoint a; insert into outbox (v) values ('s')").await.unwrap();
                    pause(7).await;
                    client
                        .batch_execute("savepoint b; insert into outbox (v) values ('t'); rollback to b")
                        .await
                        .unwrap();
                    client.batch_execute("savepoint c; insert into outbox (v) values ('u')").await.unwrap();
                    pause(5).await;
                    client.batch_execute("commit").await.unwrap();
                }
                2 => {
                    let sql = format!(
                        "begin; savepoint a; insert into outbox (v) values ('p'); prepare transaction '{name}'"
                    );
                    client.batch_execute(&sql).await.unwrap();
                    pause(11).await;
                    let end = if round % 3 == 0 { "rollback" } else { "commit" };
                    client.batch_execute(&format!("{end} prepared '{name}'")).await.unwrap();
                }
                _ => client.batch_execute("begin; insert into outbox (v) values ('x'); rollback").await.unwrap(),
            }
        }
    })
}

/// T49
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_and_crashes_no_undelivered_row_is_ever_deleted() {
    let postgres = Postgres::start().await;
    let scene = Scene::new(&postgres, "prune_load", TABLE).await;
    let client = scene.client().await;
    let reader = scene.reader(&scene.slot);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4).map(|n| writer(postgres.url(&scene.database), n, stop.clone())).collect();
    let mut pruned = 0;
    for _crash in 0..4 {
        let task = reader.start();
        for _ in 0..4 {
            pruned += run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap().rows;
        }
        // the relay dies, the services and the pruner go on
        reader.crash(task).await;
        for _ in 0..2 {
            match run(&client, &scene.rules(), Duration::from_millis(100)).await {
                Err(PruneError::NotReached { .. }) => {}
                other => panic!("with nobody delivering: {other:?}"),
            }
        }
        assert_nothing_lost(&client, &reader).await;
    }
    stop.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(pruned > 100, "only {pruned} rows were pruned: the test shows nothing");
    // a crash of the database: the slot may fall back, and nothing that is gone may be needed
    let task = reader.start();
    run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap();
    reader.crash(task).await;
    postgres.stop(StopMode::Immediate).await;
    postgres.start_again().await;
    let client = scene.client().await;
    assert_nothing_lost(&client, &reader).await;
    let task = reader.start();
    run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap();
    reader.crash(task).await;
    assert_eq!(ids(&client).await, HashSet::new(), "all is delivered: all goes");
}

/// Whatever the slot would still send was committed and not confirmed: it is in the table, or was delivered all the same.
async fn assert_nothing_lost(client: &Client, reader: &Reader) {
    let delivered = reader.delivered.lock().await.clone();
    let before = ids(client).await;
    const WAITING: &str = "select data from pg_logical_slot_peek_changes($1, null, null) where data like '%: INSERT:%'";
    let waiting = client.query(WAITING, &[&reader.slot]).await.unwrap();
    for row in waiting {
        let data: &str = row.get(0);
        let id: i64 = data.split("id[bigint]:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        if delivered.contains(&id) || before.contains(&id) {
            continue;
        }
        // committed after `before` was read, or deleted although it waits
        assert!(ids(client).await.contains(&id), "row {id} was deleted and never delivered");
    }
}

/// T49: `pg_visible_in_snapshot` calls such a row visible.
#[tokio::test]
async fn a_row_of_an_open_savepoint_is_not_behind_the_horizon() {
    let scene = Scene::new(shared_postgres().await, "prune_savepoint", TABLE).await;
    let (client, open) = (scene.client().await, scene.client().await);
    let reader = scene.reader(&scene.slot);
    client.batch_execute("insert into outbox (v) values ('done')").await.unwrap();
    open.batch_execute("begin; savepoint a; insert into outbox (v) values ('open'); savepoint b").await.unwrap();
    open.batch_execute("insert into outbox (v) values ('open too')").await.unwrap();
    let task = reader.start();
    let pruned = run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap();
    assert_eq!(pruned.rows, 1, "the one that is done");
    // the horizon of that moment is still in force when the transaction commits
    let horizon = horizon::take(&client).await.unwrap();
    let limit = Duration::from_secs(10);
    let reached = horizon::wait(&client, &scene.rules().slots, &horizon, limit, true, |_| {}).await.unwrap();
    assert_eq!(reached, Reached::Yes);
    reader.crash(task).await;
    open.batch_execute("commit").await.unwrap();
    let table = prune::find(&client, &scene.rules()).await.unwrap();
    let pruned = prune::delete(&client, &scene.rules(), &table, &horizon, |_| {}).await.unwrap();
    assert_eq!((pruned.rows, ids(&client).await.len()), (0, 2));
}

#[tokio::test]
async fn only_rows_that_are_old_enough_go_and_a_dry_run_leaves_all() {
    let scene = Scene::new(shared_postgres().await, "prune_age", TABLE).await;
    let client = scene.client().await;
    client
        .batch_execute(
            "insert into outbox (occurred_at, v) select now() - '2 days'::interval, 'old' from generate_series(1, 120);
             insert into outbox (v) select 'new' from generate_series(1, 30)",
        )
        .await
        .unwrap();
    let rules = Rules { older_than: Duration::from_secs(24 * 3600), ..scene.rules() };
    let reader = scene.reader(&scene.slot);
    let task = reader.start();
    let dry = prune::once(&client, &rules, Duration::from_secs(30), true, |_| {}).await.unwrap();
    assert_eq!((dry, ids(&client).await.len()), (Pruned { rows: 120, batches: 0 }, 150));
    let pruned = run(&client, &rules, Duration::from_secs(10)).await.unwrap();
    assert_eq!(pruned, Pruned { rows: 120, batches: 3 });
    assert_eq!(ids(&client).await.len(), 30);
    reader.crash(task).await;
}

/// A `ctid` is a place in one partition: the same place in another one holds another row.
#[tokio::test]
async fn in_a_partitioned_table_each_partition_is_pruned_by_itself() {
    let table = "create table outbox (id bigserial, occurred_at timestamptz not null default now(), v text)
                 partition by list (v);
                 create table \"Outbox A\" partition of outbox for values in ('a');
                 create table outbox_rest partition of outbox default";
    let scene = Scene::new(shared_postgres().await, "prune_partitions", table).await;
    let client = scene.client().await;
    client.batch_execute("insert into outbox (v) select 'a' from generate_series(1, 70)").await.unwrap();
    client.batch_execute("insert into outbox (v) select 'b' from generate_series(1, 20)").await.unwrap();
    let open = scene.client().await;
    open.batch_execute("begin; insert into outbox (v) select 'b' from generate_series(1, 70)").await.unwrap();
    let reader = scene.reader(&scene.slot);
    let task = reader.start();
    let pruned = run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap();
    assert_eq!(pruned, Pruned { rows: 90, batches: 3 });
    open.batch_execute("commit").await.unwrap();
    assert_eq!(ids(&client).await.len(), 70);
    reader.crash(task).await;
}

#[tokio::test]
async fn of_several_slots_the_lowest_decides() {
    let scene = Scene::new(shared_postgres().await, "prune_slots", TABLE).await;
    let client = scene.client().await;
    let lagging = unique("prune_lagging");
    scene.add_slot(&client, &lagging).await;
    client.batch_execute("insert into outbox (v) values ('x')").await.unwrap();
    let rules = Rules { slots: vec![scene.slot.clone(), lagging.clone()], ..scene.rules() };
    let (fast, slow) = (scene.reader(&scene.slot), scene.reader(&lagging));
    let fast_task = fast.start();
    match run(&client, &rules, Duration::from_millis(500)).await {
        Err(PruneError::NotReached { slot, .. }) => assert_eq!(slot, lagging),
        other => panic!("{other:?}"),
    }
    let slow_task = slow.start();
    assert_eq!(run(&client, &rules, Duration::from_secs(10)).await.unwrap().rows, 1);
    fast.crash(fast_task).await;
    slow.crash(slow_task).await;
}

/// T16: its position is the end of the log, and it has seen none of these rows.
#[tokio::test]
async fn a_slot_that_was_made_anew_vouches_for_nothing_until_somebody_reads_it() {
    let postgres = Postgres::start().await; // nothing else may move its log
    let scene = Scene::new(&postgres, "prune_recreated", TABLE).await;
    let client = scene.client().await;
    client.batch_execute("insert into outbox (v) select 'x' from generate_series(1, 10)").await.unwrap();
    client.execute("select pg_drop_replication_slot($1)", &[&scene.slot]).await.unwrap();
    let missing = run(&client, &scene.rules(), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(missing, PruneError::NoSlot(_)) && missing.hint(&scene.rules()).contains("tailwater run"));
    scene.add_slot(&client, &scene.slot).await;
    let error = run(&client, &scene.rules(), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, PruneError::NotReached { active: false, .. }), "{error:?}");
    assert!(error.hint(&scene.rules()).contains("start the relay"));
    assert_eq!(ids(&client).await.len(), 10);
}

/// A horizon of another age of the world: `age` wraps, and every row would look delivered.
#[tokio::test]
async fn a_horizon_that_is_too_old_for_a_comparison_deletes_nothing() {
    let scene = Scene::new(shared_postgres().await, "prune_wrap", TABLE).await;
    let client = scene.client().await;
    client.batch_execute("insert into outbox (v) values ('x')").await.unwrap();
    let now = horizon::take(&client).await.unwrap();
    let table = prune::find(&client, &scene.rules()).await.unwrap();
    // ahead of the server: it has been restored from a backup
    let foreign = horizon::Horizon { xmin: now.xmin + 1_000_000, ..now };
    let error = prune::delete(&client, &scene.rules(), &table, &foreign, |_| {}).await.unwrap_err();
    assert!(matches!(error, PruneError::HorizonTooOld), "{error:?}");
    assert_eq!(ids(&client).await.len(), 1);
}

#[tokio::test]
async fn what_keeps_the_server_from_deleting_is_explained() {
    let scene = Scene::new(shared_postgres().await, "prune_refused", &TABLE.replace(" primary key", "")).await;
    let client = scene.client().await;
    let role = unique("pruner");
    client
        .batch_execute(&format!(
            "insert into outbox (v) values ('x'); create publication p for table outbox;
             create role {role} login; grant select on outbox to {role}"
        ))
        .await
        .unwrap();
    let reader = scene.reader(&scene.slot);
    let task = reader.start();
    let error = run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap_err();
    assert!(error.hint(&scene.rules()).contains("SET (publish = 'insert')"), "{error:?}");
    client.batch_execute("alter publication p set (publish = 'insert')").await.unwrap();
    client.batch_execute(&format!("set role {role}")).await.unwrap();
    let error = run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap_err();
    assert!(error.hint(&scene.rules()).contains("GRANT SELECT, DELETE ON public.outbox"), "{error:?}");
    client.batch_execute("reset role").await.unwrap();
    assert_eq!(run(&client, &scene.rules(), Duration::from_secs(10)).await.unwrap().rows, 1);
    reader.crash(task).await;
}
