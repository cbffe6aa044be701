//! What every source of an outbox keeps (rules S1, S4 and C2 of `seams`), whatever it reads from.

use crate::harness::{Driven, PATIENCE, expected, values};
use async_trait::async_trait;
use std::future::poll_fn;
use std::task::Poll;
use tailwater_core::Position;
use testbed::{Postgres, shared_postgres};
use tokio_postgres::Client;

/// An outbox with a column `v`, and a source on it.
#[async_trait]
pub trait World: Sized + Send + Sync {
    async fn made(pg: &Postgres) -> Self;
    /// Rows `v<i>`, in one transaction.
    async fn write(&self, values: std::ops::Range<u32>);
    fn sql(&self) -> &Client;
    async fn opened(&self, from: Option<Position>) -> Driven;
}

macro_rules! suite {
    ($world:ty) => {
        #[tokio::test]
        async fn a_cancelled_read_loses_nothing() {
            crate::source_suite::a_cancelled_read_loses_nothing::<$world>().await;
        }

        #[tokio::test]
        async fn a_batch_stays_within_the_room_it_was_granted() {
            crate::source_suite::a_batch_stays_within_the_room_it_was_granted::<$world>().await;
        }

        #[tokio::test]
        async fn what_was_not_confirmed_comes_again() {
            crate::source_suite::what_was_not_confirmed_comes_again::<$world>().await;
        }
    };
}
pub(crate) use suite;

/// S1
pub async fn a_cancelled_read_loses_nothing<W: World>() {
    let outbox = W::made(shared_postgres().await).await;
    let mut source = outbox.opened(None).await;
    let writer = async {
        for i in 0..200 {
            outbox.write(i * 5..i * 5 + 5).await;
        }
    };
    let reader = async {
        let (mut seen, mut cancelled) = (Vec::new(), 0);
        while seen.len() < 1000 {
            // polled once, then dropped: cancelled wherever it happens to wait
            let mut read = source.source.next(2000);
            let once = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
            drop(read);
            match once {
                Poll::Ready(batch) => seen.extend(batch.unwrap().changes),
                Poll::Pending => {
                    cancelled += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        (seen, cancelled)
    };
    let ((), read) = tokio::join!(writer, tokio::time::timeout(PATIENCE, reader));
    let (seen, cancelled) = read.expect("rows are lost with a cancelled read");
    assert_eq!(values(&seen), expected(0..1000));
    assert!(cancelled > 10, "only {cancelled} reads were cancelled");
}

/// S4: and large rows do not pile up behind what there is room for.
pub async fn a_batch_stays_within_the_room_it_was_granted<W: World>() {
    let outbox = W::made(shared_postgres().await).await;
    outbox.write(0..2000).await;
    let large = "insert into outbox (v) select repeat('x', 1000000) from generate_series(1, 30)";
    outbox.sql().batch_execute(large).await.unwrap();
    outbox.write(2000..2100).await;
    let mut source = outbox.opened(None).await;
    let (mut seen, mut large) = (Vec::new(), 0);
    while seen.len() < 2130 {
        let batch = source.next_in(10_000).await.unwrap();
        if batch.size_bytes > 10_000 {
            assert_eq!(batch.changes.len(), 1, "only a single change may be larger than the room");
            large += 1;
        }
        seen.extend(batch.changes);
    }
    assert_eq!(large, 30);
    let small: Vec<_> = values(&seen).into_iter().filter(|v| v.len() < 10).collect();
    assert_eq!(small, expected(0..2100));
}

/// C2, T10: only what was confirmed is not sent again, from a saved position and without one.
pub async fn what_was_not_confirmed_comes_again<W: World>() {
    let outbox = W::made(shared_postgres().await).await;
    let mut source = outbox.opened(None).await;
    outbox.write(0..5).await;
    source.take(5).await;
    source.confirm_all().await;
    let saved = source.upto.clone();
    outbox.write(5..10).await;
    source.take(5).await;
    drop(source);
    for from in [saved, None] {
        let mut source = outbox.opened(from).await;
        assert_eq!(values(&source.take(5).await), expected(5..10));
    }
}
