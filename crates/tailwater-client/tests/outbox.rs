//! What `outbox::publish` promises, on a real PostgreSQL.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use serde_json::json;
use tailwater_client::outbox::{self, Event, Outbox};
use tokio_postgres::Client;

async fn database(ddl: &str) -> Client {
    let pg = testbed::shared_postgres().await;
    let name = pg.database("outbox").await;
    let client = pg.client(&name).await;
    client.batch_execute(ddl).await.unwrap();
    client
}

const RECIPE: &str = "CREATE TABLE outbox (event_type text NOT NULL, user_id bigint, occurred_at timestamptz DEFAULT now(), \
                      idempotency_key text NOT NULL UNIQUE, payload jsonb NOT NULL)";

#[tokio::test]
async fn the_event_is_there_if_and_only_if_the_transaction_commits() {
    let mut client = database(RECIPE).await;
    let payload = json!({"path": "a \"quoted\" name", "number": 17});
    for (key, commit) in [("rolled back", false), ("committed", true)] {
        let mut tx = client.transaction().await.unwrap();
        let columns: [(&str, &(dyn tokio_postgres::types::ToSql + Sync)); 1] = [("user_id", &4711_i64)];
        let event =
            Event { event_type: "report.requested", idempotency_key: key, payload: &payload, columns: &columns };
        outbox::publish(&mut tx, &event).await.unwrap();
        if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let rows = client.query("SELECT event_type, user_id, idempotency_key, payload FROM outbox", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, &str>(0), "report.requested");
    assert_eq!(rows[0].get::<_, i64>(1), 4711);
    assert_eq!(rows[0].get::<_, &str>(2), "committed");
    assert_eq!(rows[0].get::<_, serde_json::Value>(3), payload);
}

#[tokio::test]
async fn other_tables_columns_and_types_work_too() {
    let mut client = database(
        r#"CREATE SCHEMA app; CREATE TYPE kind AS ENUM ('order.placed');
           CREATE TABLE app."Out ""Box" (type kind, id uuid PRIMARY KEY, body text)"#,
    )
    .await;
    let outbox = Outbox::new(r#"app.Out "Box"#).unwrap().with_columns("type", "id", "body").unwrap();
    let id = "0199c0de-0000-7000-8000-000000000017";
    let mut tx = client.transaction().await.unwrap();
    let event = Event { event_type: "order.placed", idempotency_key: id, payload: &json!([1]), columns: &[] };
    outbox.publish(&mut tx, &event).await.unwrap();
    tx.commit().await.unwrap();
    let row = client.query_one(r#"SELECT id::text, body FROM app."Out ""Box""#, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (id, "[1]"));
}

#[tokio::test]
async fn a_second_event_with_the_same_key_is_told_apart_from_other_errors() {
    let mut client = database(RECIPE).await;
    let event = Event { event_type: "a", idempotency_key: "k", payload: &json!({}), columns: &[] };
    let mut tx = client.transaction().await.unwrap();
    outbox::publish(&mut tx, &event).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = client.transaction().await.unwrap();
    assert!(outbox::publish(&mut tx, &event).await.unwrap_err().is_duplicate());
    drop(tx);
    let mut tx = client.transaction().await.unwrap();
    let elsewhere = Outbox::new("no_such_table").unwrap().publish(&mut tx, &event).await.unwrap_err();
    assert!(!elsewhere.is_duplicate());
}
