//! The contract of `Publisher` (rules P1–P6, K1 of `tailwater_core::seams`), run against every sink that exists.
//!
//! A new sink brings a [`World`] and one line in `conformance!`; new rules go here, not into a sink's own tests.

#![allow(clippy::unwrap_used)] // a panic here is a failed test, with its place

mod sink_worlds;

#[cfg(feature = "kafka")]
use sink_worlds::Kafka;
use sink_worlds::{Rabbit, Stdout, World, message, slices};
use std::time::Duration;
use tailwater_core::{Failure, Message, Publisher, Rejection};
use testbed::eventually;

const LIMIT: Duration = Duration::from_secs(30);

macro_rules! conformance {
    ($($case:ident)*) => {
        mod rabbitmq { use super::*; $(#[tokio::test] async fn $case() { super::$case(&Rabbit::start().await).await })* }
        #[cfg(feature = "kafka")]
        mod kafka { use super::*; $(#[tokio::test] async fn $case() { super::$case(&Kafka::start().await).await })* }
        #[cfg(feature = "kafka")]
        mod kafka_exactly_once {
            use super::*;
            $(#[tokio::test] async fn $case() { super::$case(&Kafka::exactly_once().await).await })*
        }
        mod stdout { use super::*; $(#[tokio::test] async fn $case() { super::$case(&Stdout::start()).await })* }
    };
}

conformance! {
    messages_arrive_in_the_order_of_push
    empty_missing_and_ten_megabyte_payloads_arrive_whole
    with_nothing_in_flight_drive_waits
    a_dropped_drive_loses_and_repeats_nothing
    a_refused_message_is_reported_once_and_stops_the_prefix_until_released
    what_was_reported_durable_before_a_cut_is_there
    a_peer_that_is_away_is_an_error_of_open_and_no_verdict
    a_peer_that_takes_nothing_is_waited_for
}

/// Drives until `count` messages are durable or something else ends it.
async fn until_durable(publisher: &mut dyn Publisher, count: usize) -> Result<Vec<Rejection>, Failure> {
    let mut durable = 0;
    let mut rejected = vec![];
    while durable < count {
        let settled = tokio::time::timeout(LIMIT, publisher.drive()).await.expect("settles in time")?;
        assert!(settled.durable > 0 || !settled.rejected.is_empty(), "P4: a report says something");
        durable += settled.durable;
        rejected.extend(settled.rejected);
        if durable + rejected.len() >= count {
            break;
        }
    }
    assert!(durable <= count, "P2: never more than was pushed");
    Ok(rejected)
}

fn batch(world: &dyn World, prefix: &str, count: usize) -> Vec<Message> {
    (0..count).map(|i| message(&format!("{prefix}{i}"), world.topic(), Some(b"{\"n\":1}"))).collect()
}

fn ids(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| m.id.to_string()).collect()
}

/// P1, P2
async fn messages_arrive_in_the_order_of_push(world: &dyn World) {
    let messages = batch(world, "m", 1000);
    let mut publisher = world.sink().open(0).await.unwrap();
    for (i, slice) in slices(&messages, 37).into_iter().enumerate() {
        publisher.push(slice);
        if i % 5 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(until_durable(publisher.as_mut(), 1000).await.unwrap(), vec![]);
    assert_eq!(world.arrived(1000).await, ids(&messages));
    publisher.close().await;
}

async fn empty_missing_and_ten_megabyte_payloads_arrive_whole(world: &dyn World) {
    let big = format!("\"{}\"", "x".repeat(10 << 20));
    let messages = vec![
        message("none", world.topic(), None),
        message("empty", world.topic(), Some(b"")),
        message("big", world.topic(), Some(big.as_bytes())),
        message("after", world.topic(), Some(b"1")),
    ];
    let mut publisher = world.sink().open(0).await.unwrap();
    publisher.push(slices(&messages, 10).remove(0));
    until_durable(publisher.as_mut(), 4).await.unwrap();
    let arrived = world.arrived_payloads(4).await;
    assert_eq!(
        arrived.iter().map(|(id, n)| (&**id, *n)).collect::<Vec<_>>(),
        [("none", 0), ("empty", 0), ("big", (10 << 20) + 2), ("after", 1)]
    );
}

/// P4
async fn with_nothing_in_flight_drive_waits(world: &dyn World) {
    let mut publisher = world.sink().open(0).await.unwrap();
    for round in 0..2 {
        let idle = tokio::time::timeout(Duration::from_millis(150), publisher.drive()).await;
        assert!(idle.is_err(), "nothing to report: {idle:?}");
        let messages = batch(world, &format!("r{round}-"), 3);
        publisher.push(slices(&messages, 3).remove(0));
        until_durable(publisher.as_mut(), 3).await.unwrap();
    }
    assert_eq!(world.arrived(6).await.len(), 6);
}

/// P4
async fn a_dropped_drive_loses_and_repeats_nothing(world: &dyn World) {
    let messages = batch(world, "m", 2000);
    let mut publisher = world.sink().open(0).await.unwrap();
    let mut waiting = slices(&messages, 10).into_iter();
    let mut durable = 0;
    let mut round = 0u64;
    let end = tokio::time::Instant::now() + LIMIT;
    while durable < 2000 {
        assert!(tokio::time::Instant::now() < end, "{durable} of 2000");
        if let Some(slice) = waiting.next() {
            publisher.push(slice);
        }
        round += 1;
        // Dropped after one poll, after a few, after a while.
        let patience = Duration::from_micros([0, 1, 50, 300, 2000][(round % 5) as usize]);
        if let Ok(settled) = tokio::time::timeout(patience, publisher.drive()).await {
            durable += settled.unwrap().durable;
        }
    }
    assert_eq!(durable, 2000);
    assert_eq!(world.arrived(2000).await, ids(&messages));
}

/// P3; T32
async fn a_refused_message_is_reported_once_and_stops_the_prefix_until_released(world: &dyn World) {
    let Some(bad_topic) = world.refused_topic() else { return };
    let mut messages = batch(world, "m", 5);
    messages[2] = message("bad", bad_topic, Some(b"{}"));
    let mut publisher = world.sink().open(0).await.unwrap();
    publisher.push(slices(&messages, 5).remove(0));
    let mut durable = 0;
    let mut rejected = vec![];
    while durable < 2 || rejected.is_empty() {
        let settled = tokio::time::timeout(LIMIT, publisher.drive()).await.unwrap().unwrap();
        durable += settled.durable;
        rejected.extend(settled.rejected);
    }
    assert_eq!((durable, rejected.len(), rejected[0].index, &*rejected[0].id.0), (2, 1, 2, "bad"));
    assert!(rejected[0].reason.contains(bad_topic), "{}", rejected[0].reason);
    let more = tokio::time::timeout(Duration::from_millis(300), publisher.drive()).await;
    assert!(more.is_err(), "nothing behind the refused message counts: {more:?}");
    publisher.release(2);
    assert_eq!(until_durable(publisher.as_mut(), 3).await.unwrap(), vec![]);
    assert_eq!(world.arrived(4).await, ["m0", "m1", "m3", "m4"]);
}

/// P2, P5, P6; T34
async fn what_was_reported_durable_before_a_cut_is_there(world: &dyn World) {
    let messages = batch(world, "m", 3000);
    let sink = world.sink();
    let mut publisher = sink.open(0).await.unwrap();
    world.cut_after(200_000);
    for slice in slices(&messages, 100) {
        publisher.push(slice);
    }
    let mut durable = 0;
    let failure = loop {
        if durable == 3000 && world.mends_cuts() {
            assert_eq!(world.arrived(3000).await, ids(&messages), "mended without a gap and without a repetition");
            return;
        }
        match tokio::time::timeout(LIMIT, publisher.drive()).await.expect("ends in time") {
            Ok(settled) => durable += settled.durable,
            Err(failure) => break failure,
        }
    };
    drop(publisher);
    assert!(durable < 3000, "the cut came in the middle");
    assert_eq!(failure.is_fatal(), !world.comes_back(), "{failure}");
    if !world.comes_back() {
        let there = world.arrived(durable).await;
        assert_eq!(there[..durable], ids(&messages)[..durable]);
        return;
    }
    let mut publisher = eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
    for slice in slices(&messages[durable..], 100) {
        publisher.push(slice);
    }
    until_durable(publisher.as_mut(), 3000 - durable).await.unwrap();
    let arrived = world.arrived(3000).await;
    assert_eq!(first_occurrences(&arrived), ids(&messages), "nothing missing, first occurrences in order");
    assert!(arrived.len() - 3000 <= 3000 - durable, "only what was not reported came twice");
}

fn first_occurrences(arrived: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    arrived.iter().filter(|id| seen.insert((*id).clone())).cloned().collect()
}

/// K1
async fn a_peer_that_is_away_is_an_error_of_open_and_no_verdict(world: &dyn World) {
    if !world.comes_back() {
        return;
    }
    let sink = world.sink();
    world.away();
    match sink.open(0).await {
        Err(Failure::Retry { .. }) => {}
        Err(fatal) => panic!("waiting would help: {fatal}"),
        Ok(_) => panic!("nobody is there"),
    }
    world.back();
    let mut publisher = eventually(LIMIT, || async { sink.open(0).await.ok() }).await;
    publisher.push(slices(&batch(world, "m", 1), 1).remove(0));
    until_durable(publisher.as_mut(), 1).await.unwrap();
}

async fn a_peer_that_takes_nothing_is_waited_for(world: &dyn World) {
    let messages: Vec<Message> =
        (0..500).map(|i| message(&format!("m{i}"), world.topic(), Some(&[b' '; 8000]))).collect();
    let mut publisher = world.sink().open(0).await.unwrap();
    world.hold();
    for slice in slices(&messages, 50) {
        publisher.push(slice);
    }
    let mut durable = 0;
    let end = tokio::time::Instant::now() + Duration::from_millis(700);
    while let Ok(settled) = tokio::time::timeout_at(end, publisher.drive()).await {
        durable += settled.expect("no error: the peer is only slow").durable;
    }
    assert!(durable < 500, "nothing can have passed");
    world.back();
    until_durable(publisher.as_mut(), 500 - durable).await.unwrap();
    assert_eq!(world.arrived(500).await, ids(&messages));
}
