//! The real program under load, with real servers, while things go wrong: what was committed arrives, nothing else does,
//! and each key's events first arrive in order of commit.
//!
//! Always the short form; `TAILWATER_CRASH=long` for ten times the faults. What arrived is counted from what the
//! broker's queue holds at the end, what was committed from what the table holds.
#![allow(clippy::unwrap_used)] // a panic is a failed test

mod exit;
mod harness;
#[cfg(feature = "kafka")]
mod kafka;
mod order;
mod poll;
mod takeover;
mod verdict;

use harness::{LIMIT, Scene, cut_proxies, long, rate};
use rand::Rng;
use std::time::Duration;
use testbed::{Load, LoadOptions, Postgres, Rabbit, RabbitMq, StopMode, eventually, shared_postgres, shared_rabbitmq};
use tokio::time::sleep;

/// T8 T10 T11 T13 (transactions of several rows, killed in the middle) T55
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new("kills", postgres, broker).await;
    let load = Load::start(postgres, &scene.database, rate(500));
    let kills = if long() { 200 } else { 20 };
    for _ in 0..kills {
        let relay = scene.relay();
        let life = Duration::from_millis(rand::rng().random_range(100..900));
        sleep(life).await;
        assert!(relay.ended().is_none(), "ended by itself:\n{}", relay.stderr().join("\n"));
        relay.kill9();
    }
    let relay = scene.relay();
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("kill -9, {kills} times"), kills);
}

/// T33 T35 (what was confirmed survives the broker's restart) T36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_or_stays_away_is_waited_for() {
    let (postgres, broker) = tokio::join!(shared_postgres(), RabbitMq::start());
    let scene = Scene::new("away", postgres, &broker).await;
    let load = Load::start(postgres, &scene.database, rate(500));
    let relay = scene.relay();
    scene.published(1000).await;

    broker.stop().await;
    broker.start_again().await;
    let before = scene.count("published").await;
    scene.published(before + 1000).await;

    broker.kill9();
    sleep(Duration::from_secs(if long() { 60 } else { 10 })).await;
    assert!(relay.ended().is_none(), "ended while the broker was away:\n{}", relay.stderr().join("\n"));
    broker.start_again().await;

    let verdict = scene.settle(relay, load.finish().await, &broker).await;
    verdict.judge("broker restarted, and killed and away for 10 s", 2);
}

/// T12: a restart of the database, orderly or not, moves nothing and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_restarts_is_waited_for() {
    let (postgres, broker) = tokio::join!(Postgres::start(), shared_rabbitmq());
    let scene = Scene::new("restart", &postgres, broker).await;
    let load = Load::start(&postgres, &scene.database, rate(500));
    let relay = scene.relay();
    scene.published(500).await;
    let rounds = if long() { 10 } else { 2 };
    for _ in 0..rounds {
        for mode in [StopMode::Fast, StopMode::Immediate] {
            let took = postgres.stop(mode).await;
            assert!(took < Duration::from_secs(20), "stop -m {mode:?} took {took:?}");
            postgres.start_again().await;
            let before = scene.count("published").await;
            scene.published(before + 300).await;
        }
    }
    assert!(relay.ended().is_none(), "ended with the database:\n{}", relay.stderr().join("\n"));
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("database restarted {} times", rounds * 2), rounds * 2);
}

/// T9 T34: connections reset after any number of bytes, towards the broker and towards the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_middle_of_a_frame_lose_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let (to_database, to_broker) = cut_proxies(postgres, broker).await;
    let scene = Scene::behind("cuts", postgres, broker, &to_database, &to_broker).await;
    let load = Load::start(postgres, &scene.database, rate(500));
    let relay = scene.relay();
    scene.published(300).await;
    let cuts = if long() { 300 } else { 30 };
    for number in 0..cuts {
        let bytes = rand::rng().random_range(1..20_000);
        match number % 5 {
            0 => to_database.cut_after_down(bytes),
            1 => to_database.cut_after_up(bytes / 100 + 1),
            2 => to_broker.cut_after_down(bytes / 100 + 1),
            _ => to_broker.cut_after_up(bytes),
        }
        sleep(Duration::from_millis(rand::rng().random_range(50..400))).await;
    }
    to_database.restore();
    to_broker.restore();
    assert!(relay.ended().is_none(), "ended:\n{}", relay.stderr().join("\n"));
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge(&format!("{cuts} connections cut"), cuts);
}

/// T32 T36 T55: an event that no queue takes holds the position, visibly, and goes out once it is bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unroutable_event_holds_and_goes_out_once_it_is_bound() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new("unbound", postgres, broker).await;
    let load = Load::start(postgres, &scene.database, LoadOptions { types: vec!["order".into()], ..rate(200) });
    let relay = scene.relay();
    scene.published(200).await;

    let client = postgres.client(&scene.database).await;
    let insert = "insert into outbox values
        ('00000000-0000-4000-8000-00000000dead', 'invoice', 'late', 'invoice.made', '{\"seq\": 0}')";
    client.batch_execute(insert).await.unwrap();
    let after = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
    let after: String = after.get(0);

    let held = eventually(LIMIT, || async { scene.status().await.filter(|s| s["state"] == "held") }).await;
    assert!(held["event"].as_str().unwrap().contains("00000000-0000-4000-8000-00000000dead"), "{held}");
    assert!(held["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{held}");
    sleep(Duration::from_secs(1)).await; // more traffic behind it, and several confirm intervals
    let passed = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2";
    let passed = client.query_one(passed, &[&after, &scene.slot]).await.unwrap();
    assert!(!passed.get::<_, bool>(0), "PostgreSQL may forget an event that was not delivered");

    Rabbit::connect(broker).await.bind(&scene.queue, &scene.exchange, "outbox.event.invoice").await;
    eventually(LIMIT, || async { scene.status().await.filter(|s| s["state"] == "streaming") }).await;
    let verdict = scene.settle(relay, load.finish().await, broker).await;
    verdict.judge("an unroutable event in the middle", 1);
}
