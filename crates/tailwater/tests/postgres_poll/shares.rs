//! Several relays on one table: they share the keys, and nobody publishes what another one owns. T5, T7.

use crate::harness::{Driven, PATIENCE, Polled, text, values};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tailwater::metrics::State;
use tailwater_core::Change;
use testbed::{eventually, shared_postgres};

/// One row each of fifty keys, `v<n>`.
async fn round(outbox: &Polled, number: u32) {
    outbox.insert(number * 50..number * 50 + 50).await;
}

/// Reads for a while.
async fn read_for(source: &mut Driven, time: Duration) -> Vec<Change> {
    let (mut rows, until) = (Vec::new(), tokio::time::Instant::now() + time);
    while let Ok(next) = tokio::time::timeout_at(until, source.source.next(1 << 20)).await {
        let batch = next.unwrap_or_else(|failure| panic!("next: {failure}"));
        source.upto = Some(batch.upto);
        rows.extend(batch.changes);
    }
    rows
}

fn keys(rows: &[Change]) -> BTreeSet<String> {
    rows.iter().filter_map(|row| text(row, "k")).collect()
}

/// T5: rows of one key on their way at the first relay: the second, newly come, gets none of that key until they are settled.
#[tokio::test]
async fn a_key_changes_hands_only_when_nothing_of_it_is_on_its_way() {
    let outbox = Polled::new(shared_postgres().await).await;
    let mut first = outbox.open(None).await;
    round(&outbox, 0).await;
    assert_eq!(first.take(50).await.len(), 50);
    let mut second = outbox.open(None).await;
    assert!(matches!(second.status.state(), State::Standby { .. }), "{:?}", second.status.state());
    // the first gives up half of the keys as soon as it may, and fetches no more of these
    let giving = async {
        loop {
            round(&outbox, 1).await;
            let rows = read_for(&mut first, Duration::from_millis(600)).await;
            if rows.len() < 50 {
                return rows;
            }
        }
    };
    let kept = tokio::time::timeout(PATIENCE, giving).await.expect("the first never gives anything up");
    assert!(!kept.is_empty(), "and keeps the other half");
    assert!(
        read_for(&mut second, Duration::from_millis(1500)).await.is_empty(),
        "they are still on their way at the first"
    );
    first.confirm_all().await;
    let rest = eventually(PATIENCE, || async { matches!(second.status.state(), State::Streaming).then_some(()) });
    rest.await;
    let mut taken = BTreeSet::new();
    while taken.len() + keys(&kept).len() < 50 {
        taken.extend(keys(&second.next().await.unwrap().changes));
    }
    assert!(taken.is_disjoint(&keys(&kept)), "no key has two owners");
    // and both go on, each with its own
    first.confirm_all().await;
    second.confirm_all().await;
    for number in 9..14 {
        round(&outbox, number).await;
    }
    let (a, b) = tokio::join!(
        read_for(&mut first, Duration::from_millis(700)),
        read_for(&mut second, Duration::from_millis(700))
    );
    assert!(keys(&a).is_disjoint(&keys(&b)), "rows of a key are all with one relay");
    assert_eq!(keys(&a).union(&keys(&b)).count(), 50);
}

/// One that leaves: its keys go on where they are, with the other. Rows that it did not confirm come again.
#[tokio::test]
async fn a_relay_that_leaves_is_replaced_by_those_that_stay() {
    let outbox = Polled::new(shared_postgres().await).await;
    let mut first = outbox.open(None).await;
    let mut second = outbox.open(None).await;
    eventually(PATIENCE, || async { matches!(second.status.state(), State::Streaming).then_some(()) }).await;
    for number in 0..20 {
        round(&outbox, number).await;
    }
    let half = read_for(&mut second, Duration::from_millis(500)).await;
    assert!(!half.is_empty());
    drop(second);
    let mut all = BTreeMap::<String, Vec<String>>::new();
    let mut count = 0;
    while count < 1000 {
        let batch = first.next().await.unwrap();
        count += batch.changes.len();
        for (row, value) in batch.changes.iter().zip(values(&batch.changes)) {
            all.entry(text(row, "k").unwrap()).or_default().push(value);
        }
        first.confirm_all().await;
    }
    for (key, values) in all {
        let numbers: Vec<u32> = values.iter().map(|value| value[1..].parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() == 20, "{key}: {numbers:?}");
    }
}

/// T1 T5: a relay that was to give up keys and may keep them after all has missed nothing of them, and hands out
/// nothing twice.
#[tokio::test]
async fn keys_that_stay_after_all_are_looked_at_again() {
    let outbox = Polled::new(shared_postgres().await).await;
    // so many keys that each share has some
    let all =
        || outbox.sql.batch_execute("insert into outbox (k, v) select 'k' || i, 'v' from generate_series(1, 400) i");
    let mut first = outbox.open(None).await;
    all().await.unwrap();
    first.take(400).await; // not confirmed: nothing can be given back yet
    let second = outbox.open(None).await;
    let (mut read, mut written) = (400, 400);
    let shrunk = async {
        loop {
            all().await.unwrap();
            written += 400;
            let rows = read_for(&mut first, Duration::from_millis(600)).await.len();
            read += rows;
            if rows < 400 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, shrunk).await.expect("the first never gives anything up");
    // long enough for gaps to be closed
    read += read_for(&mut first, Duration::from_secs(1)).await.len();
    drop(second);
    eventually(PATIENCE, || async { (outbox.sessions().await.len() == 1).then_some(()) }).await;
    read += read_for(&mut first, Duration::from_secs(3)).await.len();
    assert_eq!(read, written);
    first.confirm_all().await;
    assert_eq!(outbox.waiting().await, 0);
}

/// T7: who has lost its session can be done with nothing, and hands over nothing of what it had fetched.
#[tokio::test]
async fn a_relay_whose_session_was_ended_can_neither_mark_nor_hand_over() {
    let outbox = Polled::new(shared_postgres().await).await;
    outbox.insert(0..1000).await;
    let mut source = outbox.open(None).await;
    let handed = source.next_in(1000).await.unwrap().changes.len();
    assert!((1..1000).contains(&handed), "the others are fetched and wait here");
    let pid = outbox.sessions().await[0];
    outbox.sql.batch_execute(&format!("select pg_terminate_backend({pid})")).await.unwrap();
    eventually(PATIENCE, || async { outbox.sessions().await.is_empty().then_some(()) }).await;
    source.confirm_all().await;
    assert_eq!(outbox.waiting().await, 1000, "nothing is deleted");
    let mut more = 0;
    let failure = loop {
        match source.next_in(1000).await {
            Ok(batch) => more += batch.changes.len(),
            Err(failure) => break failure,
        }
    };
    assert!(!failure.is_fatal(), "{failure}");
    assert!(more < 100, "{more} more rows were handed over");
    let mut source = outbox.open(None).await;
    assert_eq!(source.take(1000).await.len(), 1000);
}

/// T7: a process that was stopped and has not heard yet that its session was ended asks before it hands anything over.
#[tokio::test]
async fn a_relay_that_slept_asks_before_it_hands_over() {
    let pg = shared_postgres().await;
    let outbox = Polled::new(pg).await;
    outbox.insert(0..1000).await;
    let mut source = outbox.open(None).await;
    let handed = source.next_in(1000).await.unwrap().changes.len();
    assert!((1..1000).contains(&handed), "the others are fetched and wait here");
    let (url, end) = (pg.url(&outbox.database), format!("select pg_terminate_backend({})", outbox.sessions().await[0]));
    // nothing runs in this thread meanwhile, which is all that this runtime has
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(&end).await.unwrap();
        });
    });
    ended.join().unwrap();
    std::thread::sleep(outbox.config.lease / 2 + Duration::from_millis(100));
    let Err(failure) = source.next_in(1000).await else { panic!("rows that are not its own any more") };
    assert!(!failure.is_fatal(), "{failure}");
}

/// T48: a database that does not answer any more is not waited for without end.
#[tokio::test]
async fn a_database_that_falls_silent_ends_the_opening() {
    let pg = shared_postgres().await;
    let mut outbox = Polled::new(pg).await;
    let proxy = outbox.behind_a_proxy(pg).await;
    outbox.insert(0..1).await;
    let mut source = outbox.open(None).await;
    source.take(1).await;
    proxy.blackhole();
    let failure = source.failure().await;
    assert!(!failure.is_fatal(), "{failure}");
}
