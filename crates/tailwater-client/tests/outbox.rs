//! What `outbox::publish` promises, on a real PostgreSQL, with both drivers.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use serde_json::{Value, json};
use tailwater_client::outbox::{self, Columns, Error, Event, Outbox};
use tokio_postgres::Client;

async fn database(ddl: &str) -> (Client, String) {
    let pg = testbed::shared_postgres().await;
    let name = pg.database("outbox").await;
    let client = pg.client(&name).await;
    client.batch_execute(ddl).await.unwrap();
    (client, name)
}

async fn pool(database: &str) -> sqlx::PgPool {
    sqlx::PgPool::connect(&testbed::shared_postgres().await.url(database)).await.unwrap()
}

const DEBEZIUM: &str = "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
                        aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb NOT NULL, \
                        traceparent text, at timestamptz DEFAULT now())";
const RECIPE: &str = "CREATE TABLE outbox (event_type text NOT NULL, user_id bigint, occurred_at timestamptz DEFAULT now(), \
                      idempotency_key text NOT NULL UNIQUE, payload jsonb NOT NULL)";

fn recipe() -> Outbox {
    let columns = Columns { id: "idempotency_key", event_type: "event_type", ..Columns::default() };
    Outbox::default().with_columns(columns).unwrap()
}

fn order(number: i64) -> Event {
    Event::new("order.placed", json!({ "number": number, "note": "a \"quoted\" name" }))
        .about("order", number.to_string())
}

async fn rows(client: &Client) -> Vec<(String, String, String, String, Value, Option<String>)> {
    let sql = "SELECT id::text, aggregatetype, aggregateid, type, payload, traceparent FROM outbox";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))).collect()
}

#[tokio::test]
async fn the_event_is_there_if_and_only_if_the_transaction_commits() {
    let (mut client, name) = database(DEBEZIUM).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let kept = [order(1).traceparent(trace), order(2)];
    for (number, commit) in [(17, false), (1, true)] {
        let event = if commit { kept[0].clone() } else { order(number) };
        let mut tx = client.transaction().await.unwrap();
        outbox::publish(&mut tx, &event).await.unwrap();
        if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let pool = pool(&name).await;
    for (number, commit) in [(18, false), (2, true)] {
        let event = if commit { kept[1].clone() } else { order(number) };
        let mut tx = pool.begin().await.unwrap();
        outbox::publish(&mut tx, &event).await.unwrap();
        if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let expected = |event: &Event, number: i64, trace: Option<&str>| {
        let payload = json!({"number": number, "note": "a \"quoted\" name"});
        let (kind, key, event_type) = ("order".into(), number.to_string(), "order.placed".into());
        (event.id().to_owned(), kind, key, event_type, payload, trace.map(str::to_owned))
    };
    assert_eq!(rows(&client).await, [expected(&kept[0], 1, Some(trace)), expected(&kept[1], 2, None)]);
}

#[tokio::test]
async fn a_batch_is_whole_and_in_order_also_where_the_columns_differ() {
    let (mut client, name) = database(DEBEZIUM).await;
    let mut events: Vec<Event> = (0..500).map(order).collect();
    events[250] = events[250].clone().column("at", "2026-01-01T00:00:00Z");
    let mut tx = client.transaction().await.unwrap();
    outbox::publish_all(&mut tx, &events).await.unwrap();
    tx.commit().await.unwrap();
    let written: Vec<String> = rows(&client).await.into_iter().map(|row| row.0).collect();
    assert_eq!(written, events.iter().map(|e| e.id().to_owned()).collect::<Vec<_>>());
    let at: String = client.query_one("SELECT min(at)::date::text FROM outbox", &[]).await.unwrap().get(0);
    assert_eq!(at, "2026-01-01");

    let mut tx = pool(&name).await.begin().await.unwrap();
    outbox::publish_all(&mut tx, &[]).await.unwrap();
    assert!(outbox::publish_all(&mut tx, &[order(900), events[0].clone()]).await.unwrap_err().is_duplicate());
    drop(tx);
    assert_eq!(rows(&client).await.len(), 500);
}

#[tokio::test]
async fn other_tables_columns_and_types_work_too() {
    let (mut client, _) = database(
        r#"CREATE SCHEMA app; CREATE TYPE kind AS ENUM ('order.placed');
           CREATE TABLE app."Out ""Box" (what kind, key uuid PRIMARY KEY, body text, raw json, "a""b" bigint)"#,
    )
    .await;
    let columns = Columns { id: "key", event_type: "what", payload: "body", ..Columns::default() };
    let outbox = Outbox::new(r#"app.Out "Box"#).unwrap().with_columns(columns).unwrap();
    let id = "0199c0de-0000-7000-8000-000000000017";
    let event = Event::new("order.placed", json!([1])).with_id(id).column("raw", json!({"z": 1, "a": null}));
    let mut tx = client.transaction().await.unwrap();
    outbox.publish(&mut tx, &event.column(r#"a"b"#, 1_i64 << 60)).await.unwrap();
    tx.commit().await.unwrap();
    let sql = r#"SELECT key::text, body, raw->>'z', "a""b" FROM app."Out ""Box""#;
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2)), (id, "[1]", "1"));
    assert_eq!(row.get::<_, i64>(3), 1 << 60);
}

#[tokio::test]
async fn a_second_event_with_the_same_id_is_told_apart_from_other_errors() {
    let (mut client, name) = database(RECIPE).await;
    let event = Event::new("report.requested", json!({})).with_id("k").column("user_id", 4711);
    let mut tx = client.transaction().await.unwrap();
    recipe().publish(&mut tx, &event).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = client.transaction().await.unwrap();
    assert!(recipe().publish(&mut tx, &event).await.unwrap_err().is_duplicate());
    drop(tx);
    let mut tx = pool(&name).await.begin().await.unwrap();
    assert!(recipe().publish(&mut tx, &event).await.unwrap_err().is_duplicate());
    drop(tx);
    let mut tx = client.transaction().await.unwrap();
    assert!(!Outbox::new("no_such_table").unwrap().publish(&mut tx, &event).await.unwrap_err().is_duplicate());
}

/// What the relay reads from the log, with both drivers: transactional, and the same fields as a row.
#[tokio::test]
async fn without_a_table_the_event_is_a_message_in_the_log() {
    let (mut client, name) =
        database("SELECT pg_create_logical_replication_slot('outbox_' || current_database(), 'test_decoding')").await;
    let outbox = Outbox::messages("outbox");
    for commit in [false, true] {
        let mut tx = client.transaction().await.unwrap();
        outbox.publish_all(&mut tx, &[order(1).with_id("e1"), order(2).with_id("e2")]).await.unwrap();
        if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let mut tx = pool(&name).await.begin().await.unwrap();
    outbox.publish(&mut tx, &order(3).with_id("e3")).await.unwrap();
    tx.commit().await.unwrap();
    let sql = "SELECT data FROM pg_logical_slot_get_changes('outbox_' || current_database(), NULL, NULL) WHERE data LIKE 'message%'";
    let said: Vec<String> = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    client.batch_execute("SELECT pg_drop_replication_slot('outbox_' || current_database())").await.unwrap();
    assert_eq!(said.len(), 3);
    for (number, text) in (1..).zip(&said) {
        let (head, content) = text.split_once(" content:").unwrap();
        assert!(head.starts_with("message: transactional: 1 prefix: outbox, sz: "), "{head}");
        let event: Value = serde_json::from_str(content).unwrap();
        assert_eq!(
            event,
            json!({"id": format!("e{number}"), "aggregatetype": "order", "aggregateid": number.to_string(),
                   "type": "order.placed", "payload": {"number": number, "note": "a \"quoted\" name"}})
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_event_is_said_before_the_database_is_asked() {
    let (mut client, _) = database(DEBEZIUM).await;
    let mut tx = client.transaction().await.unwrap();
    let refused = [
        outbox::publish(&mut tx, &order(1).traceparent("not one")).await,
        outbox::publish(&mut tx, &order(1).column("type", "again")).await,
        outbox::publish(&mut tx, &order(1).column("", 1)).await,
    ];
    assert!(matches!(refused, [Err(Error::Traceparent), Err(Error::Twice(_)), Err(Error::Name(_))]), "{refused:?}");
    outbox::publish(&mut tx, &order(1)).await.unwrap(); // the transaction is still good
}
