//! A relay never holds up `pg_ctl stop -m fast`: idle, under load, or with the ledger full.

use crate::harness::{Outbox, PATIENCE};
use std::time::Duration;
use testbed::{Postgres, StopMode, eventually};

/// What the relay may add to a stop.
const ADDED: Duration = Duration::from_millis(1500);

/// How long this server takes to stop with nobody attached.
async fn stop_alone(pg: &Postgres) -> Duration {
    let took = pg.stop(StopMode::Fast).await;
    pg.start_again().await;
    took
}

#[tokio::test]
async fn an_idle_relay_does_not_hold_up_a_fast_stop() {
    let pg = Postgres::start().await;
    let outbox = Outbox::with_slot(&pg).await;
    let alone = stop_alone(&pg).await;
    let mut source = outbox.open(None).await;
    source.next().await.unwrap();
    let (failure, took) = tokio::join!(source.failure(), pg.stop(StopMode::Fast));
    assert!(!failure.is_fatal(), "{failure}");
    assert!(took < alone + ADDED, "{took:?} with the relay, {alone:?} without");
    eprintln!("idle: {took:?} with the relay, {alone:?} without");
}

#[tokio::test]
async fn unconfirmed_events_do_not_hold_up_a_fast_stop() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let alone = stop_alone(&pg).await;
    outbox.sql = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    outbox.insert(0..100).await;
    source.take(100).await;
    // The loop goes on reading, and nothing is ever confirmed: a broker that hangs.
    let (failure, took) = tokio::join!(source.failure(), pg.stop(StopMode::Fast));
    assert!(!failure.is_fatal(), "{failure}");
    assert!(took < alone + ADDED, "{took:?} with the relay, {alone:?} without");
    eprintln!("in flight: {took:?} with the relay, {alone:?} without");
    pg.start_again().await;
    let mut source = outbox.open(None).await;
    assert_eq!(source.take(100).await.len(), 100, "all that was not confirmed comes again");
}

#[tokio::test]
async fn a_relay_under_load_does_not_hold_up_a_fast_stop() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let alone = stop_alone(&pg).await;
    outbox.sql = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    let mut writers = Vec::new();
    for _ in 0..4 {
        let client = pg.client(&outbox.database).await;
        writers.push(tokio::spawn(async move {
            while client
                .batch_execute("insert into outbox (v) select repeat('x', 500) from generate_series(1, 20)")
                .await
                .is_ok()
            {}
        }));
    }
    let reader = async {
        let mut rows = 0;
        loop {
            match source.next().await {
                Ok(batch) => {
                    rows += batch.changes.len();
                    source.confirm_all().await;
                }
                Err(failure) => return (rows, failure),
            }
        }
    };
    let stopper = async {
        eventually(PATIENCE, || async {
            let rows: i64 = outbox.sql.query_one("select count(*) from outbox", &[]).await.unwrap().get(0);
            (rows > 5000).then_some(())
        })
        .await;
        pg.stop(StopMode::Fast).await
    };
    let ((rows, failure), took) = tokio::join!(reader, stopper);
    assert!(rows > 1000 && !failure.is_fatal(), "{rows} rows, {failure}");
    assert!(took < alone + ADDED, "{took:?} with the relay, {alone:?} without");
    eprintln!("under load: {took:?} with the relay, {alone:?} without, {rows} rows read");
}

#[tokio::test]
async fn a_full_ledger_does_not_hold_up_a_fast_stop() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let alone = stop_alone(&pg).await;
    outbox.sql = pg.client(&outbox.database).await;
    let mut source = outbox.open(None).await;
    outbox
        .sql
        .batch_execute("insert into outbox (v) select repeat('x', 1000) from generate_series(1, 60000)")
        .await
        .unwrap();
    source.next().await.unwrap();
    // From here on nobody reads: far more than the socket takes lies behind.
    let took = pg.stop(StopMode::Fast).await;
    assert!(took < alone + ADDED, "{took:?} with the relay, {alone:?} without");
    eprintln!("ledger full: {took:?} with the relay, {alone:?} without");
    assert!(!source.failure().await.is_fatal());
}

#[tokio::test]
async fn a_stop_during_the_first_snapshot_is_not_held_up() {
    let pg = Postgres::start().await;
    let mut outbox = Outbox::new(&pg).await;
    let alone = stop_alone(&pg).await;
    outbox.sql = pg.client(&outbox.database).await;
    outbox.insert(0..100).await;
    let mut source = outbox.open(None).await;
    source.take(100).await;
    let (failure, took) = tokio::join!(source.failure(), pg.stop(StopMode::Fast));
    assert!(!failure.is_fatal(), "{failure}");
    assert!(took < alone + ADDED, "{took:?} with the relay, {alone:?} without");
}
