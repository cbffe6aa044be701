//! Transactions whose shape is the difficulty: commits that overtake inserts, and one that is larger than the window.

use crate::harness::{LIMIT, Scene, WINDOW, cut_proxies};
use std::time::Duration;
use testbed::{Load, Rabbit, shared_postgres, shared_rabbitmq};

/// T15: of two transactions on one key the one that commits first arrives first, whichever was inserted first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_in_order_of_commit_not_of_insertion() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let scene = Scene::new("commit_order", postgres, broker).await;
    let relay = scene.relay();
    let (first, second) = (postgres.client(&scene.database).await, postgres.client(&scene.database).await);
    let insert = |id: &str| format!("begin; insert into outbox values ('{id}', 'order', 'k', 'order.made', '{{}}')");
    let ids = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
    scene.streaming().await;
    first.batch_execute(&insert(ids[1])).await.unwrap();
    second.batch_execute(&insert(ids[0])).await.unwrap();
    second.batch_execute("commit").await.unwrap();
    first.batch_execute("commit").await.unwrap();
    let arrived = Rabbit::connect(broker).await.take(&scene.queue, 2, LIMIT).await;
    let arrived: Vec<_> = arrived.iter().map(|message| message.message_id.as_deref().unwrap()).collect();
    assert_eq!(arrived, ids);
    relay.term();
    assert_eq!(relay.wait(LIMIT).await.code(), Some(0));
}

/// T13: rows of one transaction share a commit; killed in the middle of it, the relay goes on near where it was, not from
/// its beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_killed_in_the_middle_is_not_repeated_from_its_beginning() {
    let (postgres, broker) = (shared_postgres().await, shared_rabbitmq().await);
    let (to_database, to_broker) = cut_proxies(postgres, broker).await;
    let scene = Scene::behind("large", postgres, broker, &to_database, &to_broker).await;
    let relay = scene.relay();
    scene.streaming().await;
    // about 500 events a second: the bound is stated for 600
    to_broker.throttle(300_000);
    let filling = "x".repeat(350);
    let rows = 8 * WINDOW;
    let insert = format!(
        "insert into outbox select gen_random_uuid(), 'order', 'big', 'order.made',
            jsonb_build_object('seq', n, 'filling', '{filling}') from generate_series(1, {rows}) n"
    );
    postgres.client(&scene.database).await.batch_execute(&insert).await.unwrap();
    scene.published(4 * WINDOW as u64).await;
    relay.kill9();
    to_broker.restore();
    to_broker.cut();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let committed = Load::committed(&postgres.url(&scene.database)).await;
    let verdict = scene.settle(scene.relay(), committed, broker).await;
    verdict.judge(&format!("killed within a transaction of {rows} rows"), 1);
}
