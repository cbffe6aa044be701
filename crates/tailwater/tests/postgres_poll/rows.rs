//! Reading and being done with rows: order, room, cancelling, confirming, marking, partitions.

use crate::harness::{Driven, PATIENCE, Polled, expected, text, values};
use crate::source_suite::{World, suite};
use async_trait::async_trait;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tailwater::sources::postgres_poll::config::{Done, channel};
use tailwater_core::Position;
use testbed::{Postgres, eventually, shared_postgres};
use tokio_postgres::Client;

#[async_trait]
impl World for Polled {
    async fn made(pg: &Postgres) -> Polled {
        Polled::new(pg).await
    }

    async fn write(&self, values: std::ops::Range<u32>) {
        self.insert(values).await;
    }

    fn sql(&self) -> &Client {
        &self.sql
    }

    async fn opened(&self, from: Option<Position>) -> Driven {
        self.open(from).await
    }
}

suite!(Polled);

/// S2
#[tokio::test]
async fn committed_rows_come_in_order_and_are_deleted_once_they_are_confirmed() {
    let outbox = Polled::new(shared_postgres().await).await;
    outbox.insert(0..3).await;
    outbox.sql.batch_execute("begin; insert into outbox (v) values ('gone'); rollback").await.unwrap();
    outbox.insert(3..5).await;
    let mut source = outbox.open(None).await;
    let changes = source.take(5).await;
    assert_eq!(values(&changes), expected(0..5));
    assert_eq!(outbox.waiting().await, 5, "what is not confirmed stays");
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0, "the last confirmation waits for the database");
    outbox.insert(5..6).await;
    assert_eq!(values(&source.take(1).await), ["v5"]);
}

/// C2
#[tokio::test]
async fn a_position_of_another_opening_confirms_nothing() {
    let outbox = Polled::new(shared_postgres().await).await;
    outbox.insert(0..5).await;
    let mut source = outbox.open(None).await;
    source.take(5).await;
    let earlier = source.upto.clone();
    drop(source);
    let mut source = outbox.open(earlier.clone()).await;
    source.take(5).await;
    source.confirm.confirm(&earlier.unwrap()).await.unwrap();
    drop(source);
    let mut source = outbox.open(None).await;
    assert_eq!(
        values(&source.take(5).await),
        expected(0..5),
        "the number of another opening's batch means nothing here"
    );
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0);
}

/// T4: where times are equal or the other way round, the order column decides; rows of one transaction stay together in order.
#[tokio::test]
async fn rows_of_a_key_come_by_the_order_column_whatever_their_times_say() {
    let pg = shared_postgres().await;
    let table =
        "create table outbox (seq bigserial unique, k text, v text, created_at timestamptz not null default now())";
    let outbox = Polled::with(pg, table).await;
    outbox
        .sql
        .batch_execute(
            "insert into outbox (k, v, created_at) values ('k', 'v0', '2026-01-01 02:00Z'); \
             insert into outbox (k, v, created_at) values ('k', 'v1', '2026-01-01 01:00Z'), ('k', 'v2', '2026-01-01 01:00Z'); \
             insert into outbox (k, v, created_at) select 'k', 'v' || i, '2026-01-01 01:00Z' from generate_series(3, 999) i",
        )
        .await
        .unwrap();
    let mut source = outbox.open(None).await;
    let changes = source.take(1000).await;
    assert_eq!(values(&changes), expected(0..1000));
    let two_o_clock_us = 1_767_232_800_000_000;
    assert_eq!(changes[0].commit.time_us, two_o_clock_us, "the row's own time");
}

#[tokio::test]
async fn published_rows_can_be_marked_instead() {
    let pg = shared_postgres().await;
    let table = "create table outbox (seq bigserial unique, k text, v text, sent timestamptz); \
                 create index on outbox (seq) where sent is null";
    let mut outbox = Polled::with(pg, table).await;
    (outbox.config.done, outbox.config.mark_column) = (Done::Mark, Some("sent".into()));
    outbox.insert(0..100).await;
    let mut source = outbox.open(None).await;
    assert_eq!(values(&source.take(100).await), expected(0..100));
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0);
    drop(source);
    outbox.sql.batch_execute("update outbox set sent = null where v = 'v7'").await.unwrap();
    outbox.insert(100..101).await;
    let mut source = outbox.open(None).await;
    assert_eq!(values(&source.take(2).await), ["v7", "v100"], "an unmarked row goes out again");
    let total: i64 = outbox.sql.query_one("select count(*) from outbox", &[]).await.unwrap().get(0);
    assert_eq!(total, 101, "nothing is deleted");
}

/// What no look behind the cursor or into a gap could find: a value given by hand, a mark removed.
#[tokio::test]
async fn a_row_that_nobody_could_expect_is_found_when_all_is_looked_at_afresh() {
    let table = "create table outbox (seq bigserial unique, k text, v text, sent timestamptz); \
                 create index on outbox (seq) where sent is null";
    let mut outbox = Polled::with(shared_postgres().await, table).await;
    (outbox.config.done, outbox.config.mark_column) = (Done::Mark, Some("sent".into()));
    outbox.afresh = Some(Duration::from_secs(2));
    let mut source = outbox.open(None).await;
    // one after the other, so that no gap is left open
    for n in 0..10 {
        outbox.insert(n..n + 1).await;
        assert_eq!(values(&source.take(1).await), [format!("v{n}")]);
        source.confirm_all().await;
    }
    let odd =
        "insert into outbox (seq, k, v) values (-5, 'k', 'by hand'); update outbox set sent = null where v = 'v3'";
    outbox.sql.batch_execute(odd).await.unwrap();
    assert_eq!(values(&source.take(2).await), ["by hand", "v3"]);
}

#[tokio::test]
async fn a_partitioned_table_is_polled_as_one() {
    let pg = shared_postgres().await;
    let table = "create table outbox (seq bigserial, k text, v text, d int) partition by range (d); \
                 create table outbox_1 partition of outbox for values from (0) to (10); \
                 create table outbox_2 partition of outbox for values from (10) to (20); create index on outbox (seq)";
    let outbox = Polled::with(pg, table).await;
    let insert = "insert into outbox (k, v, d) select 'k' || i % 9, 'v' || i, i % 20 from generate_series(0, 999) i";
    outbox.sql.batch_execute(insert).await.unwrap();
    let mut source = outbox.open(None).await;
    assert_eq!(values(&source.take(1000).await), expected(0..1000));
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0);
}

#[tokio::test]
async fn a_notification_is_a_look_at_once() {
    let mut outbox = Polled::new(shared_postgres().await).await;
    outbox.config.interval = Duration::from_secs(60);
    let mut source = outbox.open(None).await;
    outbox.insert(0..1).await;
    source.take(1).await; // the first look is not waited for
    outbox
        .sql
        .batch_execute(&format!(
            "create function ring() returns trigger language plpgsql as $$ begin perform pg_notify('{}', ''); return null; end $$; \
             create trigger ring after insert on outbox for each statement execute function ring()",
            channel("outbox")
        ))
        .await
        .unwrap();
    let start = Instant::now();
    for n in 1..20 {
        outbox.insert(n..n + 1).await;
        assert_eq!(values(&source.take(1).await), [format!("v{n}")]);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// A row that somebody has locked neither ends the relay nor is published again.
#[tokio::test]
async fn a_published_row_that_is_locked_is_deleted_later() {
    let pg = shared_postgres().await;
    let mut outbox = Polled::new(pg).await;
    outbox.afresh = Some(Duration::from_secs(1)); // it is found again, and known
    let other = pg.client(&outbox.database).await;
    outbox.insert(0..3).await;
    let mut source = outbox.open(None).await;
    source.take(3).await;
    other.batch_execute("begin; select from outbox where v = 'v1' for update").await.unwrap();
    let start = Instant::now();
    source.confirm_all().await;
    assert!(start.elapsed() >= Duration::from_secs(4), "the last confirmation waits for the database, for a while");
    outbox.insert(3..5).await;
    assert_eq!(values(&source.take(2).await), expected(3..5), "rows flow meanwhile");
    other.batch_execute("commit").await.unwrap();
    source.confirm_all().await;
    eventually(PATIENCE, || async { (outbox.waiting().await == 0).then_some(()) }).await;
}

/// A row that can never be deleted must not be published for ever.
#[tokio::test]
async fn where_published_rows_cannot_be_deleted_the_relay_stops() {
    let outbox = Polled::new(shared_postgres().await).await;
    let trigger = "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'rows are kept here'; end $$; \
         create trigger refuse before delete on outbox for each row execute function refuse()";
    outbox.sql.batch_execute(trigger).await.unwrap();
    outbox.insert(0..1).await;
    let mut source = outbox.open(None).await;
    source.take(1).await;
    source.confirm_all().await;
    let failure = source.failure().await;
    assert!(failure.is_fatal(), "{failure}");
    assert!(
        failure.to_string().contains("rows are kept here") && failure.to_string().contains("DELETE FROM"),
        "{failure}"
    );
}

/// T3: positions of another cluster are refused, of the log too; those of the same cluster's log are taken.
#[tokio::test]
async fn another_cluster_is_noticed() {
    let outbox = Polled::new(shared_postgres().await).await;
    let ours: i64 =
        outbox.sql.query_one("select system_identifier from pg_control_system()", &[]).await.unwrap().get(0);
    for position in ["poll sys=5000000 of=0000000000000007 batch=7", "pg sys=5000000 tl=1 lsn=0/16B3748"] {
        let Err(failure) = outbox.try_open(Some(Position::new(position))).await else { panic!("{position} is taken") };
        let text = failure.to_string();
        assert!(failure.is_fatal() && text.contains("another cluster") && text.contains("state file"), "{text}");
    }
    let Err(failure) = outbox.try_open(Some(Position::new("something else"))).await else { panic!("taken") };
    assert!(failure.is_fatal(), "{failure}");
    outbox.insert(0..1).await;
    let mut source = outbox.open(Some(Position::new(format!("pg sys={ours} tl=1 lsn=0/16B3748")))).await;
    assert_eq!(values(&source.take(1).await), ["v0"]);
}

/// T3: neither xids nor the place in the table decide the order, so that nothing is left behind when they start anew.
#[tokio::test]
async fn a_sequence_that_was_set_back_hides_no_row_from_the_next_opening() {
    let outbox = Polled::new(shared_postgres().await).await;
    outbox.insert(0..10).await;
    let mut source = outbox.open(None).await;
    source.take(10).await;
    source.confirm_all().await;
    outbox.sql.batch_execute("alter table outbox alter column seq restart with 1").await.unwrap();
    outbox.insert(10..20).await;
    let from = source.upto.clone();
    drop(source);
    let mut source = outbox.open(from).await;
    let rows = source.take(10).await;
    assert_eq!(values(&rows), expected(10..20));
    let seqs: HashSet<_> = rows.iter().map(|row| text(row, "seq")).collect();
    assert_eq!(seqs.len(), 10);
}
