//! Either worker serves, on a real PostgreSQL and RabbitMQ.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

mod common;

use common::*;
use reports::worker::{Failure, handle};
use tailwater_client::inbox::Once;
use uuid::Uuid;

#[tokio::test]
async fn export_marker_and_mail_are_written_together_and_once() {
    let (_, pool) = database().await;
    let (id, body) = requested(&pool, 2, "key-1").await;
    let body = body.to_string();
    assert_eq!(handle(&pool, body.as_bytes()).await.unwrap(), Once::Done(24));
    assert_eq!(handle(&pool, body.as_bytes()).await.unwrap(), Once::Known);
    assert_eq!(status(&pool, id).await, "done");
    for table in ["export", "inbox", "mail"] {
        assert_eq!(count(&pool, table).await, 1, "{table}");
    }
    let csv: Vec<u8> = pool.get().await.unwrap().query_one("SELECT csv FROM export", &[]).await.unwrap().get(0);
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.starts_with("happened_at,action,detail\n2026-01-01T08:00:00Z,signed in,\"item 2, no. 0\"\n"), "{csv}");
    assert_eq!(csv.lines().count(), 25);
}

#[tokio::test]
async fn the_days_asked_for_bound_the_export_both_included() {
    let (_, pool) = database().await;
    let (_, mut body) = requested(&pool, 1, "key-days").await;
    body["payload"]["from"] = "2026-01-02".into();
    body["payload"]["to"] = "2026-01-03".into();
    assert_eq!(handle(&pool, body.to_string().as_bytes()).await.unwrap(), Once::Done(2));
}

#[tokio::test]
async fn a_message_that_cannot_work_is_poison_and_leaves_nothing_behind() {
    let (_, pool) = database().await;
    let (id, unknown_user) = requested(&pool, 999, "key-user").await;
    let (_, mut bad_day) = requested(&pool, 1, "key-day").await;
    bad_day["payload"]["from"] = "never".into();
    let (_, mut bad_type) = requested(&pool, 1, "key-type").await;
    bad_type["event_type"] = "report.burnt".into();
    let no_report = body(Uuid::now_v7(), 1, "key-report");
    let texts = [unknown_user, bad_day, bad_type, no_report].map(|body| body.to_string());
    for text in texts.iter().map(String::as_str).chain(["not json", "[]", r#"{"event_type":"report.requested"}"#]) {
        let outcome = handle(&pool, text.as_bytes()).await;
        assert!(matches!(outcome, Err(Failure::Poison(_))), "{text}: {outcome:?}");
    }
    assert_eq!(status(&pool, id).await, "failed");
    for table in ["export", "inbox", "mail"] {
        assert_eq!(count(&pool, table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_or_not_ready_is_never_the_messages_fault() {
    let away = reports::database::pool("postgres://postgres@127.0.0.1:1/none").unwrap();
    let text = body(Uuid::now_v7(), 1, "key").to_string();
    assert!(matches!(handle(&away, text.as_bytes()).await, Err(Failure::Away(_))));
    let pg = testbed::shared_postgres().await;
    let without_tables = reports::database::pool(&pg.url(&pg.database("empty").await)).unwrap();
    assert!(matches!(handle(&without_tables, text.as_bytes()).await, Err(Failure::Away(_))));
}

/// T42, with two workers in two languages on one queue.
#[tokio::test]
async fn every_report_has_one_effect_although_each_is_delivered_twice_to_both_workers() {
    let (name, pool) = database().await;
    let amqp = broker().await;
    let url = testbed::shared_postgres().await.url(&name);
    let (_connection, channel) = channel(&amqp).await;
    for n in 0..40 {
        let (_, body) = requested(&pool, 1 + n % 3, &format!("key-{n}")).await;
        for _ in 0..2 {
            publish(&channel, body.to_string().as_bytes()).await;
        }
    }
    let _workers = (python_worker(&url, &amqp), rust_worker(&url, &amqp));
    until_count(&pool, "report WHERE status = 'done'", 40).await;
    until_depth(&channel, "report-service", 0).await;
    for table in ["export", "inbox", "mail"] {
        assert_eq!(count(&pool, table).await, 40, "{table}");
    }
    assert_eq!(depth(&channel, "report-service-dlq").await, 0, "a duplicate is no poison");
}

#[tokio::test]
async fn both_workers_make_the_same_export_and_the_same_mail() {
    let (name, pool) = database().await;
    let amqp = broker().await;
    let url = testbed::shared_postgres().await.url(&name);
    let (_connection, channel) = channel(&amqp).await;
    let (by_rust, body) = requested(&pool, 3, "by-rust").await;
    handle(&pool, body.to_string().as_bytes()).await.unwrap();
    let (by_python, body) = requested(&pool, 3, "by-python").await;
    publish(&channel, body.to_string().as_bytes()).await;
    let _worker = python_worker(&url, &amqp);
    until_count(&pool, "export", 2).await;
    let same = format!(
        "(SELECT DISTINCT e.rows, e.csv, m.recipient, m.subject, m.body, m.attachment FROM export e JOIN mail m \
         ON m.file_name = 'activity-' || e.report_id || '.csv' WHERE e.report_id IN ('{by_rust}', '{by_python}')) x"
    );
    assert_eq!(count(&pool, &same).await, 1);
}

#[tokio::test]
async fn a_poison_message_ends_in_the_dead_letters_whichever_worker_has_it() {
    for python in [true, false] {
        let (name, pool) = database().await;
        let amqp = broker().await;
        let url = testbed::shared_postgres().await.url(&name);
        let (_connection, channel) = channel(&amqp).await;
        let (poison, body) = requested(&pool, 999, "poison").await;
        let body = body.to_string();
        publish(&channel, body.as_bytes()).await;
        publish(&channel, b"not json").await;
        let (good, after) = requested(&pool, 1, "after").await;
        publish(&channel, after.to_string().as_bytes()).await;
        let _worker = if python { python_worker(&url, &amqp) } else { rust_worker(&url, &amqp) };
        until_depth(&channel, "report-service-dlq", 2).await;
        until_count(&pool, "inbox", 1).await;
        assert_eq!(take(&channel, "report-service-dlq").await, body.as_bytes());
        assert_eq!((status(&pool, poison).await, status(&pool, good).await), ("failed".into(), "done".into()));
        until_depth(&channel, "report-service", 0).await;
    }
}

/// The whole way back: looked at, mended, replayed, done.
#[tokio::test]
async fn a_poison_message_is_mended_and_replayed() {
    let (name, pool) = database().await;
    let amqp = broker().await;
    let (_connection, channel) = channel(&amqp).await;
    let (poison, body) = requested(&pool, 999, "poison").await;
    publish(&channel, body.to_string().as_bytes()).await;
    let _worker = rust_worker(&testbed::shared_postgres().await.url(&name), &amqp);
    until_depth(&channel, "report-service-dlq", 1).await;
    let dlq = |arguments: &[&str]| {
        let mut command = std::process::Command::new(testbed::tailwater_binary());
        command.arg("dlq").args(arguments).args(["--queue", "report-service-dlq"]).env("TAILWATER_FROM", &amqp);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(dlq(&["list"]).contains("rejected in report-service"));
    let shown = dlq(&["show", "#1", "--body-only"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), body);
    let dir = testbed::WorkDir::new();
    let mended = dir.path().join("mended.json");
    std::fs::write(&mended, shown.replace("\"user_id\":999", "\"user_id\":1")).unwrap();
    dlq(&["replay", "--id", "#1", "--body", mended.to_str().unwrap()]);
    until_count(&pool, "report WHERE status = 'done'", 1).await;
    assert_eq!(status(&pool, poison).await, "done");
    until_depth(&channel, "report-service-dlq", 0).await;
}

/// T46: the event is delivered before its transaction is visible; both workers wait for the row.
#[tokio::test]
async fn a_message_that_is_faster_than_its_own_commit_is_not_poison() {
    for python in [true, false] {
        let (name, pool) = database().await;
        let amqp = broker().await;
        let url = testbed::shared_postgres().await.url(&name);
        let (_connection, channel) = channel(&amqp).await;
        let _worker = if python { python_worker(&url, &amqp) } else { rust_worker(&url, &amqp) };
        let mut client = pool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let id = Uuid::now_v7();
        let insert = "INSERT INTO report (id, idempotency_key, user_id) VALUES ($1, 'key', 1)";
        tx.execute(insert, &[&id]).await.unwrap();
        publish(&channel, body(id, 1, "key").to_string().as_bytes()).await;
        // Until the worker has looked for the row, and not found it: its transaction was rolled back.
        let database: &str = &name;
        testbed::eventually(LIMIT, || async {
            let sql = "SELECT sum(xact_rollback)::bigint FROM pg_stat_database WHERE datname = $1";
            let rollbacks: i64 = pool.get().await.unwrap().query_one(sql, &[&database]).await.unwrap().get(0);
            testbed::note(rollbacks);
            (rollbacks > 0 && depth(&channel, "report-service").await == 0).then_some(())
        })
        .await;
        tx.commit().await.unwrap();
        until_count(&pool, "report WHERE status = 'done'", 1).await;
        assert_eq!(depth(&channel, "report-service-dlq").await, 0);
    }
}

/// SIGTERM: the worker ends by itself, with exit code 0, and leaves nothing half done.
#[tokio::test]
async fn a_stopped_worker_leaves_the_rest_in_the_queue_and_loses_nothing() {
    let (name, pool) = database().await;
    let amqp = broker().await;
    let url = testbed::shared_postgres().await.url(&name);
    let (_connection, channel) = channel(&amqp).await;
    for n in 0..50 {
        let (_, body) = requested(&pool, 1, &format!("key-{n}")).await;
        publish(&channel, body.to_string().as_bytes()).await;
    }
    let mut worker = rust_worker(&url, &amqp);
    testbed::eventually(LIMIT, || async { (count(&pool, "inbox").await > 5).then_some(()) }).await;
    let pid = worker.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    let status = tokio::time::timeout(LIMIT, worker.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    let done = count(&pool, "inbox").await;
    until_depth(&channel, "report-service", u32::try_from(50 - done).unwrap()).await;
    let _worker = rust_worker(&url, &amqp);
    until_count(&pool, "mail", 50).await;
}
