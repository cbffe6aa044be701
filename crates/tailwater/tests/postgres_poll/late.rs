//! Transactions that commit late, never, or stay open: T1 and T2.

use crate::harness::{Driven, Polled, expected, text, values};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testbed::{Postgres, PostgresOptions, eventually, shared_postgres};
use tokio::task::JoinSet;

const WRITERS: usize = 200;

/// Whether the long form was asked for.
fn long() -> bool {
    std::env::var("TAILWATER_CRASH").is_ok_and(|form| form == "long")
}

/// T1 T5: 200 writers with random delays before their commits, some of which roll back, wholly or to a savepoint; two
/// relays. Published is what was committed, once, and each writer's rows in its order. 60 s in the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_with_late_commits_lose_nothing_and_keep_their_order() {
    let settings = vec![("max_connections", "400")];
    let pg = Postgres::start_with(PostgresOptions { settings, ..Default::default() }).await;
    let outbox = Polled::new(&pg).await;
    let (first, second) = (outbox.open(None).await, outbox.open(None).await);
    let time = Duration::from_secs(if long() { 60 } else { 6 });
    let until = Instant::now() + time;
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let client = pg.client(&outbox.database).await;
        writers.spawn(async move { write(client, number, until).await });
    }
    let (count, total) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let mut readers = JoinSet::new();
    for (reader, source) in [first, second].into_iter().enumerate() {
        readers.spawn(read(reader, source, count.clone(), total.clone(), time));
    }
    let mut committed = BTreeSet::new();
    while let Some(rows) = writers.join_next().await {
        committed.extend(rows.unwrap());
    }
    total.store(committed.len(), Ordering::SeqCst);
    let mut published = Vec::new();
    while let Some(rows) = readers.join_next().await {
        published.push(rows.unwrap());
    }
    println!(
        "committed = {}, published by the first relay {}, by the second {}",
        committed.len(),
        published[0].len(),
        published[1].len()
    );
    let all: Vec<(usize, u32)> = published.iter().flatten().copied().collect();
    assert_eq!(all.len(), committed.len(), "each once");
    assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), committed);
    assert!(published.iter().all(|rows| !rows.is_empty()), "both relays work");
    for rows in &published {
        let mut last = BTreeMap::new();
        for (writer, number) in rows {
            let before = last.insert(*writer, *number);
            assert!(before.is_none_or(|before| before < *number), "writer {writer}: {number} after {before:?}");
        }
    }
    eventually(crate::harness::PATIENCE, || async { (outbox.waiting().await == 0).then_some(()) }).await;
}

/// One writer, one key; what it committed.
async fn write(client: tokio_postgres::Client, writer: usize, until: Instant) -> Vec<(usize, u32)> {
    let mut committed = Vec::new();
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let (pause, kind) = (rand::rng().random_range(0..300), rand::rng().random_range(0..10));
        let insert = format!("insert into outbox (k, v) values ('w{writer}', '{writer}/{number}')");
        client.batch_execute(&format!("begin; {insert}")).await.unwrap();
        if kind == 0 {
            client.batch_execute("savepoint s; insert into outbox (v) values ('gone'); rollback to s").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let end = if kind == 1 { "rollback" } else { "commit" };
        client.batch_execute(end).await.unwrap();
        if kind != 1 {
            committed.push((writer, number));
        }
    }
    committed
}

/// Reads and confirms until all relays together have read all there is; rows in order. What was overlooked and found when all
/// is looked at afresh, after a minute, comes too late here.
async fn read(
    reader: usize,
    mut source: Driven,
    count: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
    time: Duration,
) -> Vec<(usize, u32)> {
    let mut seen = Vec::new();
    let start = Instant::now();
    while count.load(Ordering::SeqCst) < total.load(Ordering::SeqCst) {
        let next = tokio::time::timeout(Duration::from_millis(200), source.source.next(1 << 20)).await;
        assert!(
            start.elapsed() < time + Duration::from_secs(40),
            "relay {reader} read {} rows, and not all",
            seen.len()
        );
        let Ok(batch) = next else { continue };
        let batch = batch.unwrap_or_else(|failure| panic!("next: {failure}"));
        for value in values(&batch.changes) {
            let (writer, number) = value.split_once('/').unwrap_or_else(|| panic!("{value} was rolled back"));
            seen.push((writer.parse().unwrap(), number.parse().unwrap()));
        }
        count.fetch_add(batch.changes.len(), Ordering::SeqCst);
        source.confirm.confirm(&batch.upto).await.unwrap();
    }
    seen
}

/// T2: idle sessions elsewhere, with an xid or only a snapshot, hold up nothing and are nobody's business.
#[tokio::test]
async fn an_idle_transaction_elsewhere_stalls_nothing() {
    let pg = shared_postgres().await;
    let outbox = Polled::new(pg).await;
    let (writer, reader) = (pg.client(&outbox.database).await, pg.client(&outbox.database).await);
    outbox.sql.batch_execute("create table other (v text)").await.unwrap();
    writer.batch_execute("begin; insert into other values ('x')").await.unwrap();
    reader.batch_execute("begin isolation level repeatable read; select from outbox").await.unwrap();
    let mut source = outbox.open(None).await;
    outbox.insert(0..1000).await;
    assert_eq!(values(&source.take(1000).await), expected(0..1000));
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0);
    assert_eq!(source.status.notice(), None);
}

/// T1 T2: one who has inserted into this very table and stays open, and one who prepares, after he was seen with his pid: rows
/// of others flow, and both are named, and nobody else is. When they commit at last, their rows come.
#[tokio::test]
async fn a_writer_that_stays_open_is_named_and_its_row_comes_when_it_commits() {
    let pg = shared_postgres().await;
    let outbox = Polled::new(pg).await;
    let (open, preparing, elsewhere) =
        (pg.client(&outbox.database).await, pg.client(&outbox.database).await, pg.client(&outbox.database).await);
    let mut source = outbox.open(None).await;
    let not_ours = "create table other (id bigserial, v text); begin; insert into other (v) values ('x')";
    elsewhere.batch_execute(not_ours).await.unwrap();
    open.batch_execute("begin; insert into outbox (k, v) values ('k0', 'late')").await.unwrap();
    let gid = format!("{}_gid", outbox.database);
    preparing.batch_execute("begin; insert into outbox (k, v) values ('k1', 'prepared')").await.unwrap();
    outbox.insert(0..1000).await;
    assert_eq!(values(&source.take(1000).await), expected(0..1000));
    source.confirm_all().await;
    let mut pids = Vec::new();
    for client in [&open, &preparing, &elsewhere] {
        pids.push(format!("pid {}", client.query_one("select pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0)));
    }
    let notice = source.noticed(|notice| notice.is_some_and(|text| text.contains(&pids[0]))).await;
    assert!(notice.contains(&pids[1]) && notice.matches("open for").count() == 2, "{notice}");
    assert!(!notice.contains(&pids[2]), "this one did not insert here: {notice}");
    preparing.batch_execute(&format!("prepare transaction '{gid}'")).await.unwrap();
    let name = format!("the prepared transaction '{gid}'");
    let notice = source.noticed(|notice| notice.is_some_and(|text| text.contains(&name))).await;
    assert!(notice.contains(&pids[0]) && !notice.contains(&pids[1]), "{notice}");
    outbox.insert(1000..1001).await;
    assert_eq!(values(&source.take(1).await), ["v1000"]);
    open.batch_execute("commit").await.unwrap();
    assert_eq!(values(&source.take(1).await), ["late"]);
    outbox.sql.batch_execute(&format!("commit prepared '{gid}'")).await.unwrap();
    assert_eq!(values(&source.take(1).await), ["prepared"]);
    source.noticed(|notice| notice.is_none()).await;
    assert_eq!(text(&source.next_of(&outbox).await, "v").as_deref(), Some("v1001"));
}

impl Driven {
    /// Reads on, as a pipeline does, until the notice is as wanted; nothing may come meanwhile.
    async fn noticed(&mut self, wanted: impl Fn(Option<&str>) -> bool) -> String {
        let until = tokio::time::Instant::now() + Duration::from_secs(40);
        loop {
            let notice = self.status.notice();
            if wanted(notice.as_deref()) {
                return notice.unwrap_or_default();
            }
            assert!(tokio::time::Instant::now() < until, "the notice stays: {notice:?}");
            let next = tokio::time::timeout(Duration::from_millis(50), self.source.next(1 << 20)).await;
            assert!(next.is_err(), "a row nobody has committed");
        }
    }

    /// One more row, to see that all goes on.
    async fn next_of(&mut self, outbox: &Polled) -> tailwater_core::Change {
        outbox.insert(1001..1002).await;
        self.take(1).await.remove(0)
    }
}

/// T1 T5: a row behind the cursor never overtakes one of its key that was committed before and appears in a gap, at whatever
/// moment of a look both are committed. The database is far away, so that a look takes its time.
#[tokio::test]
async fn a_late_row_comes_before_what_its_key_committed_after_it() {
    let pg = shared_postgres().await;
    let mut outbox = Polled::new(pg).await;
    let proxy = outbox.behind_a_proxy(pg).await;
    let late = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    // many rows on their way, none confirmed
    outbox.insert(0..5000).await;
    source.take(5000).await;
    proxy.delay(Duration::from_millis(40));
    for round in 0..16 {
        late.batch_execute(&format!("begin; insert into outbox (k, v) values ('late', 'first {round}')"))
            .await
            .unwrap();
        outbox.insert(0..10).await;
        source.take(10).await;
        let commit = async {
            let both = format!("commit; insert into outbox (k, v) values ('late', 'second {round}')");
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..300))).await;
            late.batch_execute(&both).await.unwrap();
        };
        let (rows, ()) = tokio::join!(source.take(2), commit);
        assert_eq!(values(&rows), [format!("first {round}"), format!("second {round}")]);
    }
}

/// T1: with many holes next to each other, looks pass rows that are on their way, more of them than a look may bring: what
/// is new comes all the same, behind them and between them.
#[tokio::test]
async fn rows_on_their_way_hide_no_others() {
    let pg = shared_postgres().await;
    let outbox = Polled::new(pg).await;
    let late = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    // every other value is drawn and never appears
    let holes = "insert into outbox (k, v) select 'k', 'v' || i from generate_series(0, 8999) i \
                 where nextval('outbox_seq_seq') > 0";
    outbox.sql.batch_execute(holes).await.unwrap();
    late.batch_execute("begin; insert into outbox (k, v) values ('k', 'late')").await.unwrap();
    assert_eq!(values(&source.take(9000).await), expected(0..9000));
    outbox.insert(9000..9100).await;
    assert_eq!(values(&source.take(100).await), expected(9000..9100));
    late.batch_execute("commit").await.unwrap();
    assert_eq!(values(&source.take(1).await), ["late"]);
}
