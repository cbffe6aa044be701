//! The slot is the lock: one holds it, the others stand by.

use crate::harness::{Outbox, PATIENCE, expected, values};
use std::sync::Arc;
use std::time::Instant;
use tailwater::metrics::{State, Status};
use testbed::{eventually, shared_postgres};

/// O2
#[tokio::test]
async fn a_second_source_stands_by_names_the_holder_and_takes_over() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut first = outbox.open(None).await;
    outbox.insert(0..3).await;
    first.take(3).await;
    first.confirm_all().await;
    let saved = first.upto.clone();
    let status = Arc::new(Status::new("second"));
    let takeover = async {
        let holder = eventually(PATIENCE, || async {
            match status.state() {
                State::Standby { holder } => Some(holder),
                _ => None,
            }
        })
        .await;
        assert!(holder.contains("pid ") && holder.contains("tailwater"), "{holder}");
        outbox.insert(3..5).await;
        drop(first);
        Instant::now()
    };
    let (second, left) = tokio::join!(outbox.open_as(saved, status.clone()), takeover);
    let took = left.elapsed();
    assert_eq!(values(&second.unwrap().take(2).await), expected(3..5));
    assert!(took.as_secs() < 3, "took over after {took:?}");
    eprintln!("took over {took:?} after the holder left");
    assert_eq!(status.state(), State::Streaming);
}

/// Without a slot the claim on the snapshot is the lock; its key is a hash of the slot's name, positive or negative.
#[tokio::test]
async fn a_second_source_stands_by_while_the_first_takes_the_snapshot() {
    for slot in ["claimed_one", "claimed_two"] {
        let mut outbox = Outbox::new(shared_postgres().await).await;
        outbox.config.slot = slot.into();
        outbox.insert(0..3).await;
        let mut first = outbox.open(None).await;
        first.take(3).await;
        let status = Arc::new(Status::new("second"));
        let takeover = async {
            let holder = eventually(PATIENCE, || async {
                match status.state() {
                    State::Standby { holder } => Some(holder),
                    _ => None,
                }
            })
            .await;
            assert!(holder.contains("pid ") && holder.contains("takes the snapshot"), "{holder}");
            drop(first);
        };
        let (second, ()) = tokio::join!(outbox.open_as(None, status.clone()), takeover);
        let rows = second.unwrap_or_else(|failure| panic!("{slot}: {failure}")).take(3).await;
        assert_eq!(values(&rows), expected(0..3), "the first one settled nothing");
    }
}

/// A position saved before another instance went on: nothing is repeated, nothing is missing.
#[tokio::test]
async fn a_slot_ahead_of_the_saved_position_is_followed() {
    let outbox = Outbox::with_slot(shared_postgres().await).await;
    let mut source = outbox.open(None).await;
    outbox.insert(0..2).await;
    source.take(2).await;
    source.confirm_all().await;
    let old = source.upto.clone();
    outbox.insert(2..4).await;
    source.take(2).await;
    source.confirm_all().await;
    let before = outbox.confirmed().await;
    eventually(PATIENCE, || async { (outbox.confirmed().await > before).then_some(()) }).await;
    drop(source);
    let mut source = outbox.open(old).await;
    outbox.insert(4..5).await;
    assert_eq!(values(&source.take(1).await), expected(4..5));
    drop(source);
}
