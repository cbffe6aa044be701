//! Inserts, updates, deletes, truncates, changed keys, values that are not in the log; the snapshot before them.

use super::*;

/// Longer than a page: it is stored apart, and an update that leaves it alone does not bring it (compression would).
const TOAST: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)";

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_connector_brings_every_kind_of_change_with_key_envelope_and_tombstone() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TABLE orders (id int PRIMARY KEY, name text, body text); ALTER TABLE orders ALTER body SET STORAGE EXTERNAL; \
         CREATE TABLE other (id int PRIMARY KEY)",
    )
    .await;
    let topic = shop.topic("orders");
    process.topic(&topic).await;
    let more =
        json!({ "table.include.list": "public.orders", "snapshot.mode": "no_data", "skipped.operations": "none" });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    shop.streaming().await;
    shop.run(&format!("INSERT INTO orders VALUES (1, 'a', {TOAST})")).await;
    shop.run("INSERT INTO other VALUES (1)").await;
    shop.run("UPDATE orders SET name = 'b' WHERE id = 1").await;
    shop.run("UPDATE orders SET id = 2 WHERE id = 1").await;
    shop.run("DELETE FROM orders WHERE id = 2").await;
    shop.run("TRUNCATE orders").await;
    let records = process.records(&topic, 8).await;
    let seen: Vec<(Value, Value)> = records.iter().map(|record| (key(record), value(record)["op"].clone())).collect();
    let one = json!({ "id": 1 });
    let two = json!({ "id": 2 });
    let expected = [
        (one.clone(), json!("c")),
        (one.clone(), json!("u")),
        (one.clone(), json!("d")),
        (one.clone(), Value::Null),
        (two.clone(), json!("c")),
        (two.clone(), json!("d")),
        (two.clone(), Value::Null),
        (Value::Null, json!("t")),
    ];
    assert_eq!(seen, expected);
    let [insert, update, ..] = &records[..] else { unreachable!() };
    let envelope = value(insert);
    assert_eq!((&envelope["before"], &envelope["after"]["name"]), (&Value::Null, &json!("a")));
    assert_eq!(envelope["after"]["body"].as_str().unwrap().len(), 6400);
    let source = &envelope["source"];
    assert_eq!(
        (&source["db"], &source["table"], &source["schema"]),
        (&json!(shop.database), &json!("orders"), &json!("public"))
    );
    assert_eq!(
        (&source["name"], &source["connector"], &source["snapshot"]),
        (&json!(shop.name), &json!("postgresql"), &json!("false"))
    );
    assert!(source["lsn"].as_i64().unwrap() > 0 && source["txId"].as_i64().unwrap() > 0, "{source}");
    assert!(["ts_ms", "ts_us", "ts_ns"].iter().all(|name| envelope[name].is_i64()), "{envelope}");
    assert_eq!(value(update)["after"], json!({ "id": 1, "name": "b", "body": "__debezium_unavailable_value" }));
    assert_eq!(records[2].header("__debezium.newkey"), Some(r#"{"id":2}"#));
    assert_eq!(records[4].header("__debezium.oldkey"), Some(r#"{"id":1}"#));
    assert!(records[3].value.is_none() && records[6].value.is_none(), "a tombstone has no bytes");
    assert_eq!(value(&records[4])["after"]["body"], json!("__debezium_unavailable_value"));
    assert_eq!(value(&records[5])["before"], json!({ "id": 2, "name": null, "body": null }));
    assert!(process.kafka.records(&shop.topic("other")).await.is_empty());
    process.request("DELETE", &format!("/connectors/{}", shop.name), None).await.unwrap();
    process.child.term();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_from_before_come_first_and_then_what_happens() {
    let process = Process::start().await;
    let shop =
        Shop::new("CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)").await;
    shop.run("INSERT INTO a SELECT n, 'before' FROM generate_series(1, 3) n; INSERT INTO b VALUES (1, 'before')").await;
    let (a, b) = (shop.topic("a"), shop.topic("b"));
    process.topic(&a).await;
    process.topic(&b).await;
    process.post(&shop.name, &shop.connector(json!({}))).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO a VALUES (4, 'after'); DELETE FROM b").await;
    let records = process.records(&a, 4).await;
    let seen: Vec<Value> =
        records.iter().map(|record| json!([value(record)["op"], value(record)["after"]["v"]])).collect();
    assert_eq!(seen, [json!(["r", "before"]), json!(["r", "before"]), json!(["r", "before"]), json!(["c", "after"])]);
    let snapshot = |record: &Record| value(record)["source"]["snapshot"].as_str().unwrap().to_owned();
    let of_b = process.records(&b, 3).await;
    assert_eq!(records.iter().map(snapshot).collect::<Vec<_>>(), ["first", "true", "last_in_data_collection", "false"]);
    assert_eq!((snapshot(&of_b[0]), key(&of_b[2]), of_b[2].value.is_none()), ("last".into(), json!({ "id": 1 }), true));

    // no_data: what was there is not read
    let other = Shop::new("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    process.topic(&other.topic("a")).await;
    process.post(&other.name, &other.connector(json!({ "snapshot.mode": "never" }))).await.unwrap();
    other.streaming().await;
    other.run("INSERT INTO a VALUES (2)").await;
    assert_eq!(value(&process.records(&other.topic("a"), 1).await[0])["after"], json!({ "id": 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_converter_without_schemas_enable_writes_schemas_as_connects_does() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE t (id int PRIMARY KEY, v numeric(8,2))").await;
    process.topic(&shop.topic("t")).await;
    let more = json!({ "key.converter.schemas.enable": null, "value.converter.schemas.enable": null, "snapshot.mode": "no_data" });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO t VALUES (1, 12.34)").await;
    let record = &process.records(&shop.topic("t"), 1).await[0];
    let (key, value) = (key(record), value(record));
    assert_eq!(key["schema"]["name"], json!(format!("{}.public.t.Key", shop.name)));
    assert_eq!(key["payload"], json!({ "id": 1 }));
    assert_eq!(value["schema"]["name"], json!(format!("{}.public.t.Envelope", shop.name)));
    let decimal = &value["schema"]["fields"][1]["fields"][1];
    assert_eq!(decimal["name"], json!("org.apache.kafka.connect.data.Decimal"));
    assert_eq!(value["payload"]["after"], json!({ "id": 1, "v": "BNI=" }));
}
