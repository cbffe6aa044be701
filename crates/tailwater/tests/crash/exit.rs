//! How the program ends: SIGTERM drains and is 0, a second signal is a crash, a failure of the engine is never 0.

use crate::harness::{LIMIT, Scene, cut_proxies, rate};
use std::time::{Duration, Instant};
use testbed::{Load, shared_postgres, shared_rabbitmq};

/// SIGTERM under load: nothing new is taken, what is in flight is drained and confirmed, so the next start repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_confirms_and_exits_zero() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new("term", postgres, broker).await;
    let load = Load::start(postgres, &scene.database, rate(500));
    for _ in 0..3 {
        let relay = scene.relay();
        scene.published(100).await;
        let start = Instant::now();
        relay.term();
        assert_eq!(relay.wait(LIMIT).await.code(), Some(0), "{}", relay.stderr().join("\n"));
        assert!(start.elapsed() < Duration::from_secs(10), "drained in {:?}", start.elapsed());
    }
    let verdict = scene.settle(scene.relay(), load.finish().await, broker).await;
    verdict.judge("SIGTERM, 3 times", 0);
}

/// T33: with a broker that does not answer there is no draining; the second signal ends that at once, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_is_a_crash_that_loses_nothing() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let (to_database, to_broker) = cut_proxies(postgres, broker).await;
    let scene = Scene::behind("second", postgres, broker, &to_database, &to_broker).await;
    let load = Load::start(postgres, &scene.database, rate(500));
    let relay = scene.relay();
    scene.published(100).await;
    to_broker.blackhole();
    testbed::eventually(LIMIT, || async { (scene.count("received").await > 300).then_some(()) }).await;
    relay.term();
    relay.wait_for("drain", LIMIT).await;
    let start = Instant::now();
    relay.term();
    let status = relay.wait(LIMIT).await;
    assert_ne!(status.code(), Some(0), "a crash is not an orderly end");
    assert!(start.elapsed() < Duration::from_secs(3), "the second signal took {:?}", start.elapsed());
    to_broker.restore();
    let verdict = scene.settle(scene.relay(), load.finish().await, broker).await;
    verdict.judge("two signals while the broker does not answer", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_engine_is_never_exit_zero() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    for (hint, from, to) in [
        ("role", "postgres://postgres@", "postgres://nobody_of_that_name@"),
        ("database", "public.outbox", "public.no_such_table"),
        ("broker", "guest:guest@", "guest:wrong@"),
    ] {
        let scene = Scene::new(hint, postgres, broker).await;
        scene.edit(from, to);
        let relay = scene.relay();
        let status = relay.wait(LIMIT).await;
        let said = relay.stderr().join("\n");
        assert_eq!(status.code(), Some(1), "{hint}: {said}");
        assert!(said.contains("what to do"), "{hint}: no hint in: {said}");
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_exit_two() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new("config", postgres, broker).await;
    scene.edit("window = ", "windoww = ");
    let relay = scene.relay();
    assert_eq!(relay.wait(LIMIT).await.code(), Some(2));
    assert!(relay.stderr().join("\n").contains("window"), "the nearest key is named");
}
