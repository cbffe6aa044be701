//! The report recipe, as it is written: examples/reports with the real program, PostgreSQL, RabbitMQ and the Python worker.
//!
//! Each point at which the recipe fails elsewhere when it is taken by the letter is a test here.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

mod world;

use serde_json::json;
use std::process::{Command, Output};
use world::{LIMIT, World, example};

const PROPERTIES: &str = "application.properties";

/// The whole way, on a table without an `id` column: rows from before the first start, and rows after it.
#[tokio::test]
async fn the_recipe_works_as_written_through_to_the_python_worker() {
    through_to_the_worker(false).await;
}

#[tokio::test]
async fn the_recipe_works_as_written_with_an_id_column_too() {
    through_to_the_worker(true).await;
}

async fn through_to_the_worker(with_id: bool) {
    let world = World::new(with_id).await;
    for n in 0..5 {
        world.ask(&format!("before-{n}"), n + 1).await;
    }
    let _relay = world.relay(&world.at_home(PROPERTIES)).await;
    let worker = world.python_worker().await;
    for n in 0..5 {
        world.ask(&format!("after-{n}"), n + 1).await;
    }
    world.until_count("report WHERE status = 'done'", 10).await;
    assert_eq!(world.count("inbox").await, 10);
    assert_eq!(world.count("mail").await, 10);
    world.until_depth("report-service", 0).await;
    assert_eq!(world.rabbit.count("report-service-dlq").await, 0);
    assert!(worker.ended().is_none(), "{:?}", worker.stderr());
}

/// What the consumer sees: no schema wrapper, the routing key, the id. Points 3, 4 and 5 of the file.
#[tokio::test]
async fn the_message_is_what_the_worker_expects() {
    for with_id in [false, true] {
        let world = World::new(with_id).await;
        world.ask("key-1", 7).await;
        let _relay = world.relay(&world.at_home(PROPERTIES)).await;
        let message = world.rabbit.take("report-service", 1, LIMIT).await.remove(0);
        let row = world.db.query_one("SELECT id::text FROM report", &[]).await.unwrap();
        let body = json!({
            "payload": {"report_id": row.get::<_, &str>(0), "user_id": 7},
            "event_type": "report.requested",
            "idempotency_key": "key-1",
        });
        assert_eq!(message.json(), body);
        assert_eq!((&*message.exchange, &*message.routing_key), ("events", "report.requested"));
        assert_eq!(message.delivery_mode, Some(2), "persistent");
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
        let id = if with_id { "id::text" } else { "idempotency_key" };
        let id: String = world.db.query_one(&format!("SELECT {id} FROM outbox"), &[]).await.unwrap().get(0);
        assert_eq!(message.message_id, Some(id));
    }
}

/// Point 1 of the file: for Debezium Server the dollar sign must be doubled; both spellings mean the same here.
#[tokio::test]
async fn a_doubled_dollar_sign_means_the_same() {
    let world = World::new(false).await;
    world.ask("key-1", 1).await;
    let config = world.at_home_but(PROPERTIES, |text| {
        assert!(text.contains("=${routedByValue}"));
        text.replace("=${routedByValue}", "=$${routedByValue}")
    });
    let _relay = world.relay(&config).await;
    let message = world.rabbit.take("report-service", 1, LIMIT).await.remove(0);
    assert_eq!(message.routing_key, "report.requested");
}

/// Point 2 of the file: it names no offset file, and the position is kept all the same.
#[tokio::test]
async fn the_position_is_kept_without_an_offset_file() {
    let world = World::new(false).await;
    let config = world.at_home(PROPERTIES);
    world.ask("key-1", 1).await;
    let relay = world.relay(&config).await;
    world.until_depth("report-service", 1).await;
    relay.term();
    assert!(relay.wait(LIMIT).await.success(), "{}", relay.stderr().join("\n"));
    world.ask("key-2", 1).await;
    let _relay = world.relay(&config).await;
    let keys: Vec<_> = world
        .rabbit
        .take("report-service", 2, LIMIT)
        .await
        .iter()
        .map(|m| m.json()["idempotency_key"].clone())
        .collect();
    assert_eq!(keys, ["key-1", "key-2"]);
    assert_eq!(world.rabbit.count("report-service").await, 0, "nothing is repeated after an orderly stop");
}

#[tokio::test]
async fn a_killed_relay_loses_nothing_and_the_worker_has_each_report_once() {
    let world = World::new(false).await;
    let config = world.at_home(PROPERTIES);
    let _worker = world.python_worker().await;
    let mut relay = world.relay(&config).await;
    for n in 0..60 {
        world.ask(&format!("key-{n}"), n % 10 + 1).await;
        if n % 20 == 10 {
            relay.kill9();
            relay = world.relay_started(&config);
        }
    }
    world.until_count("report WHERE status = 'done'", 60).await;
    world.until_depth("report-service", 0).await;
    assert_eq!((world.count("inbox").await, world.count("mail").await), (60, 60));
    assert_eq!(world.rabbit.count("report-service-dlq").await, 0);
}

/// Two outbox rows with one idempotency key, and the same message once more: one effect.
#[tokio::test]
async fn a_known_key_is_skipped_by_the_worker() {
    let world = World::new(false).await;
    let _relay = world.relay(&world.at_home(PROPERTIES)).await;
    let worker = world.python_worker().await;
    world.ask("key-1", 1).await;
    world.db.execute("INSERT INTO outbox SELECT * FROM outbox", &[]).await.unwrap();
    worker.wait_for("known, skipped", LIMIT).await;
    world.until_depth("report-service", 0).await;
    assert_eq!((world.count("mail").await, world.rabbit.count("report-service-dlq").await), (1, 0));
}

/// With the topology as it was meant, a rejected message is dead-lettered once and does not come back.
#[tokio::test]
async fn a_poison_report_ends_in_the_dead_letters_once_and_stops_nobody() {
    let world = World::new(false).await;
    let _relay = world.relay(&world.at_home(PROPERTIES)).await;
    let worker = world.python_worker().await;
    world.ask("poison", 999).await;
    world.ask("good", 1).await;
    world.until_count("report WHERE status = 'done'", 1).await;
    world.until_depth("report-service-dlq", 1).await;
    let dead = world.rabbit.drain("report-service-dlq").await.remove(0);
    assert_eq!(dead.json()["idempotency_key"], "poison");
    assert_eq!(dead.message_id.as_deref(), Some("poison"));
    let rejections = worker.stderr().iter().filter(|line| line.contains("to the dead letters")).count();
    assert_eq!((rejections, world.rabbit.count("report-service").await), (1, 0));
}

/// A type that nobody has bound, between others: held, and delivered as soon as it is bound.
#[tokio::test]
async fn an_event_type_without_a_binding_is_held_and_not_lost() {
    let world = World::new(false).await;
    let relay = world.relay(&world.at_home(PROPERTIES)).await;
    world.ask("first", 1).await;
    world.until_depth("report-service", 1).await;
    for n in 0..10 {
        world.say("invoice.paid", &format!("invoice-{n}")).await;
    }
    world.ask("last", 1).await;
    relay.wait_for("invoice-0", LIMIT).await; // the state names the event
    assert!(relay.ended().is_none(), "it waits");
    world.rabbit.queue("other", "events", &["invoice.*"]).await;
    world.until_depth("other", 10).await;
    testbed::eventually(LIMIT, || async {
        let all: Vec<_> =
            world.rabbit.drain("report-service").await.iter().map(|m| m.json()["idempotency_key"].clone()).collect();
        all.contains(&json!("last")).then_some(())
    })
    .await;
}

/// The same pipeline in Tailwater's own words publishes the same messages.
#[tokio::test]
async fn the_toml_of_the_example_says_the_same_as_the_properties() {
    let mut seen = Vec::new();
    for file in [PROPERTIES, "tailwater.toml"] {
        let world = World::new(false).await;
        world.say("report.requested", "key-1").await;
        let _relay = world.relay(&world.at_home(file)).await;
        let m = world.rabbit.take("report-service", 1, LIMIT).await.remove(0);
        let body = String::from_utf8(m.body).unwrap();
        seen.push((m.exchange, m.routing_key, m.message_id, m.kind, m.content_type, format!("{:?}", m.headers), body));
    }
    assert_eq!(seen[0], seen[1]);
}

/// With dead-lettering by arguments on the queue the worker's own declaration fails, and the worker dies.
#[tokio::test]
async fn dead_lettering_by_argument_would_kill_the_worker_with_406_and_by_policy_does_not() {
    let world = World::new(false).await;
    world.python_worker().await; // by policy: it consumes
    world.rabbit.delete_queue("report-service").await;
    let arguments = json!({"durable": true, "arguments":
        {"x-dead-letter-exchange": "events", "x-dead-letter-routing-key": "report.dlq"}});
    let answer = world.mq.manage("PUT", "/api/queues/%2F/report-service", Some(&arguments.to_string())).await;
    assert!(answer.status < 300, "{answer:?}");
    let worker = world.python_worker_started();
    assert!(!worker.wait(LIMIT).await.success());
    assert!(
        worker.stderr().iter().any(|line| line.contains("406") && line.contains("x-dead-letter")),
        "{:?}",
        worker.stderr()
    );
    world.rabbit.delete_queue("report-service").await;
}

/// The loop of the literal topology: refused by `check`, in words, with what to do; the topology as it was meant passes.
#[test]
fn check_refuses_the_endless_dead_letter_loop() {
    let literal = check("literal-topology.toml");
    let text = String::from_utf8_lossy(&literal.stdout) + String::from_utf8_lossy(&literal.stderr);
    assert_eq!(literal.status.code(), Some(3), "{text}");
    for words in ["report-service", "report.dlq", "report.*"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    for file in ["tailwater.toml", PROPERTIES] {
        let output = check(file);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Every decision taken for the author of the file is told before anything runs.
#[test]
fn check_lists_the_decisions_taken_for_the_author() {
    let text = String::from_utf8(check(PROPERTIES).stdout).unwrap();
    let decisions = text.split_once("decided for you:").unwrap().1;
    for about in ["topic.replacement", "offset.storage", "event.id", "routingKey.source", "schemas.enable"] {
        assert!(decisions.contains(about), "no decision about {about} in:\n{decisions}");
    }
}

fn check(file: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tailwater")).arg("check").arg("--config").arg(example(file)).output().unwrap()
}

/// `CREATE PUBLICATION outbox_pub FOR TABLE outbox`, as the recipe has it, forbids the recipe's own clean-up on a table
/// without a primary key; the example's publication of inserts does not.
#[tokio::test]
async fn old_rows_can_be_deleted_with_a_publication_of_inserts_only() {
    let world = World::new(false).await;
    world.say("report.requested", "key-1").await;
    assert_eq!(world.db.execute("DELETE FROM outbox", &[]).await.unwrap(), 1);
    world.say("report.requested", "key-2").await;
    world
        .db
        .batch_execute("DROP PUBLICATION outbox_pub; CREATE PUBLICATION outbox_pub FOR TABLE outbox")
        .await
        .unwrap();
    let refused = world.db.execute("DELETE FROM outbox", &[]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("publishes deletes"), "{refused}");
}

/// `init` makes table, publication, role and grants from the properties file alone; what is delivered can then be pruned,
/// although the table has no primary key.
#[tokio::test]
async fn init_makes_what_the_recipe_needs_and_prune_deletes_what_is_delivered() {
    let world = World::without_outbox().await;
    let init = world.admin(&["init", "--yes"]);
    assert!(init.status.success(), "{}{}", text(&init.stdout), text(&init.stderr));
    world.add_service().await;
    world.ask("key-1", 1).await;
    let _relay = world.relay(&world.at_home(PROPERTIES)).await;
    world.ask("key-2", 2).await;
    let messages = world.rabbit.take("report-service", 2, LIMIT).await;
    assert_eq!(messages.iter().map(|m| m.json()["idempotency_key"].clone()).collect::<Vec<_>>(), ["key-1", "key-2"]);
    let prune = world.admin(&["prune", "--older-than", "0s"]);
    assert!(prune.status.success(), "{}{}", text(&prune.stdout), text(&prune.stderr));
    assert_eq!(world.count("outbox").await, 0);
}

/// A publication by the letter of the recipe is found by `init`, which says how to mend it and leaves it alone.
#[tokio::test]
async fn init_finds_a_publication_that_publishes_deletes() {
    let world = World::new(false).await;
    world
        .db
        .batch_execute("DROP PUBLICATION outbox_pub; CREATE PUBLICATION outbox_pub FOR TABLE outbox")
        .await
        .unwrap();
    let init = world.admin(&["init", "--dry-run"]);
    let said = text(&init.stdout) + &text(&init.stderr);
    assert!(said.contains("ALTER PUBLICATION") && said.contains("'insert'"), "{said}");
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}
