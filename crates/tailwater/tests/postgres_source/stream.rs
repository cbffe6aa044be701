//! Reading the log: order, resuming, cancelling, idle progress.

use crate::harness::{Driven, Outbox, PATIENCE, expected, values};
use crate::source_suite::{World, suite};
use async_trait::async_trait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tailwater_core::Position;
use testbed::{Postgres, eventually, shared_postgres};
use tokio_postgres::Client;

#[async_trait]
impl World for Outbox {
    async fn made(pg: &Postgres) -> Outbox {
        Outbox::with_slot(pg).await
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

suite!(Outbox);

/// S2
#[tokio::test]
async fn committed_rows_come_in_commit_order_with_their_transaction() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox.insert(0..3).await;
    outbox.sql.batch_execute("begin; insert into outbox (v) values ('gone'); rollback").await.unwrap();
    outbox.insert(3..5).await;
    let mut source = outbox.open(None).await;
    let changes = source.take(5).await;
    assert_eq!(values(&changes), expected(0..5));
    assert_eq!(changes.iter().map(|change| change.ordinal).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
    assert!(changes[0].commit.lsn < changes[3].commit.lsn);
}

/// T13: what was settled inside a transaction is not read again, what was not is.
#[tokio::test]
async fn a_source_resumes_inside_a_transaction_at_the_ordinal() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    outbox.insert(0..1).await;
    outbox.insert(1..10_001).await;
    let mut source = outbox.open(None).await;
    let mut seen = Vec::new();
    while seen.len() < 4000 || !source.inside() {
        seen.extend(source.next_in(50_000).await.unwrap().changes);
    }
    assert!(seen.len() < 9000, "batches are bounded by room: {} at once", seen.len());
    source.confirm_all().await;
    let from = source.upto.clone();
    drop(source);
    let mut source = outbox.open(from).await;
    let rest = 10_001 - seen.len();
    seen.extend(source.take(rest).await);
    assert_eq!(values(&seen), expected(0..10_001));
    let ordinals: Vec<u64> = seen[1..].iter().map(|change| change.ordinal).collect();
    assert_eq!(ordinals, (0..10_000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn inside_a_large_transaction_the_lag_shows() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    let at_start = source.status.server_lsn.load(Ordering::Relaxed);
    outbox.insert(0..10_000).await;
    source.next_in(50_000).await.unwrap();
    while !source.inside() {
        source.next_in(50_000).await.unwrap();
    }
    let known = source.status.server_lsn.load(Ordering::Relaxed);
    assert!(known > at_start, "the server's end is known to have moved: {at_start} → {known}");
    assert!(source.status.confirmed_lsn.load(Ordering::Relaxed) < known);
}

/// S3, T12: an unconfirmed event holds the position; once it is settled, the position follows WAL that is not ours.
#[tokio::test]
async fn the_confirmed_position_follows_foreign_wal_only_when_nothing_is_in_flight() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    outbox.insert(0..1).await;
    source.take(1).await;
    let before = outbox.confirmed().await;
    outbox
        .sql
        .batch_execute("insert into other select repeat('x', 1000) from generate_series(1, 50000)")
        .await
        .unwrap();
    let end = outbox.wal_end().await;
    assert!(end - before > 50_000_000, "50 MB of other WAL");
    let start = Instant::now();
    while source.status.received_lsn.load(Ordering::SeqCst) < end {
        source.next().await.unwrap();
    }
    assert_eq!(outbox.confirmed().await, before, "nothing was confirmed: the position must not have moved");
    source.confirm_all().await;
    eventually(PATIENCE, || async { (outbox.confirmed().await >= end).then_some(()) }).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "the confirmed position followed after {took:?}");
    eprintln!("followed 50 MB of other WAL after {took:?}");
}
