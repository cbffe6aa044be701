//! Chains of transforms: rows alone, other topics, outboxes made of logical messages, in Kafka and in RabbitMQ.

use super::*;
use testbed::{Rabbit, shared_rabbitmq};

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_alone_under_the_topic_that_the_regex_router_gives() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE orders (id int PRIMARY KEY, name text)").await;
    let topic = format!("{}_orders", shop.name);
    process.topic(&topic).await;
    let more = json!({
        "snapshot.mode": "no_data",
        "transforms": "unwrap,names",
        "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
        "transforms.unwrap.add.fields": "op,source.table:from",
        "transforms.unwrap.delete.tombstone.handling.mode": "rewrite",
        "transforms.names.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.names.regex": r"(.*)\.public\.(.*)",
        "transforms.names.replacement": "$1_$2",
    });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO orders VALUES (1, 'a')").await;
    shop.run("UPDATE orders SET name = 'b'").await;
    shop.run("DELETE FROM orders").await;
    let records = process.records(&topic, 3).await;
    assert!(records.iter().all(|record| key(record) == json!({ "id": 1 })));
    let rows: Vec<Value> = records.iter().map(value).collect();
    assert_eq!(rows[0], json!({ "id": 1, "name": "a", "__deleted": "false", "__op": "c", "__from": "orders" }));
    assert_eq!(rows[1], json!({ "id": 1, "name": "b", "__deleted": "false", "__op": "u", "__from": "orders" }));
    assert_eq!((&rows[2]["__deleted"], &rows[2]["__op"]), (&json!("true"), &json!("d")));
}

/// A router for one table beside plain change events of another; and schemas around an outbox's events.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_beside_other_tables_is_routed_and_they_are_change_events() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TABLE box (id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload jsonb); \
         CREATE TABLE orders (id int PRIMARY KEY)",
    )
    .await;
    let events = format!("{}.events", shop.name);
    process.topic(&events).await;
    process.topic(&shop.topic("orders")).await;
    let more = json!({
        "snapshot.mode": "no_data",
        "table.include.list": "public.box,public.orders",
        "value.converter.schemas.enable": "true",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.predicate": "isBox",
        "transforms.outbox.table.expand.json.payload": "true",
        "transforms.outbox.route.topic.replacement": format!("{}.${{routedByValue}}", shop.name),
        "predicates": "isBox",
        "predicates.isBox.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
        "predicates.isBox.pattern": format!(r"{}\.public\.box", shop.name),
    });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    shop.streaming().await;
    shop.run(
        "BEGIN; INSERT INTO orders VALUES (7); INSERT INTO box VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'events', \
         'seven', 'made', '{\"n\": 7}'); DELETE FROM box; COMMIT",
    )
    .await;
    let record = &process.records(&events, 1).await[0];
    assert_eq!(key(record), json!("seven"));
    assert_eq!((&value(record)["payload"], &value(record)["schema"]["type"]), (&json!({ "n": 7 }), &json!("struct")));
    assert_eq!(record.header("id"), Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"));
    let order = &process.records(&shop.topic("orders"), 1).await[0];
    assert_eq!(value(order)["payload"]["after"], json!({ "id": 7 }));
}

/// The outbox without a table: the event is a logical message of the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_of_logical_messages_needs_no_table() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE orders (id int PRIMARY KEY)").await;
    let events = format!("{}.orders", shop.name);
    process.topic(&events).await;
    let more = json!({
        "publication.autocreate.mode": "no_tables",
        "message.prefix.include.list": "outbox",
        "transforms": "decode,outbox",
        "transforms.decode.type": "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.field.event.key": "key",
        "transforms.outbox.route.by.field": "topic",
        "transforms.outbox.route.topic.replacement": format!("{}.${{routedByValue}}", shop.name),
    });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    shop.streaming().await;
    let emit = |prefix: &str, n: i32| {
        let content =
            json!({ "id": format!("m{n}"), "topic": "orders", "key": format!("k{n}"), "payload": { "n": n } });
        format!("INSERT INTO orders VALUES ({n}); SELECT pg_logical_emit_message(true, '{prefix}', '{content}')")
    };
    shop.run(&format!("BEGIN; {}; COMMIT", emit("outbox", 1))).await;
    shop.run(&format!("BEGIN; {}; ROLLBACK", emit("outbox", 2))).await;
    shop.run(&format!("BEGIN; {}; COMMIT", emit("noise", 3))).await;
    shop.run(&format!("BEGIN; {}; COMMIT", emit("outbox", 4))).await;
    let records = process.records(&events, 2).await;
    let seen: Vec<Value> =
        records.iter().map(|record| json!([key(record), record.header("id"), value(record)])).collect();
    assert_eq!(seen, [json!(["k1", "m1", { "n": 1 }]), json!(["k4", "m4", { "n": 4 }])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_events_go_to_rabbitmq_by_their_topic() {
    let shop = Shop::new("CREATE TABLE orders (id int PRIMARY KEY, name text)").await;
    let broker = shared_rabbitmq().await;
    let rabbit = Rabbit::connect(broker).await;
    rabbit.exchange(&shop.name).await;
    rabbit.queue(&shop.name, &shop.name, &[&shop.topic("orders")]).await;
    let (url, name) = (shop.url(), &shop.name);
    let source = format!("{url}\npublication_autocreate = \"filtered\"\ntables = {{ include = \"public.orders\" }}");
    let route = format!(
        r#"
topic_prefix = "{name}"
changes = {{ tombstones_on_delete = false }}
[[pipelines.shop.route.transforms]]
type = "extract_new_record_state"
deletes = "rewrite"
predicate = {{ topic_name_matches = ".*never" }}
"#
    );
    let sink = format!("type = \"rabbitmq\"\nurls = [\"{}\"]\nexchange = \"{name}\"", broker.url());
    let file = shop.file("", &source, &route, &sink);
    shop.run("INSERT INTO orders VALUES (1, 'before')").await;
    let child = file.run();
    shop.streaming().await;
    shop.run("UPDATE orders SET name = 'b'").await;
    shop.run("DELETE FROM orders").await;
    let messages = rabbit.take(&shop.name, 3, PATIENCE).await;
    let seen: Vec<Value> = messages.iter().map(|message| message.json()["op"].clone()).collect();
    assert_eq!(seen, [json!("r"), json!("u"), json!("d")]);
    assert_eq!(messages[1].json()["after"], json!({ "id": 1, "name": "b" }));
    assert!(messages.iter().all(|message| message.routing_key == shop.topic("orders")));
    assert!(messages.iter().all(|message| message.content_type.as_deref() == Some("application/json")));
    child.term();
    assert!(child.wait(PATIENCE).await.success());
}
