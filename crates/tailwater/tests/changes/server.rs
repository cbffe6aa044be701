//! Files of Debezium Server, in strict compatibility, through RabbitMQ: routing key, headers and body as recorded.

use super::golden::{SERVERS_OWN, load, same_bytes, transactions};
use super::*;
use testbed::{Rabbit, Received, shared_rabbitmq};

/// An outbox with schemas around key, body and headers; change events; a chain.
const CASES: &[&str] = &[
    "c_default_json",
    "c_schemas_off_common",
    "c_plain_schemas",
    "c_plain_snapshot",
    "c_plain_no_tombstone",
    "c_unwrap",
    "c_expand",
];

#[tokio::test(flavor = "multi_thread")]
async fn files_of_debezium_server_give_its_wire_form_with_schemas_too() {
    let mut problems = Vec::new();
    for name in CASES {
        if let Err(problem) = replay(name).await {
            problems.push(format!("{name}: {problem}"));
        }
    }
    println!("golden over RabbitMQ: same {}, unexplained {}", CASES.len() - problems.len(), problems.len());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

async fn replay(name: &str) -> Result<(), String> {
    let (case, recorded) = (load("cases", name), load("records", name));
    let shop = Shop::named(name).await;
    transactions(&shop.sql, &json!([case["ddl"]])).await?;
    shop.run(&format!("CREATE PUBLICATION {name} FOR ALL TABLES")).await;
    transactions(&shop.sql, &case["before"]).await?;
    let broker = shared_rabbitmq().await;
    let (rabbit, exchange) = (Rabbit::connect(broker).await, unique(name));
    rabbit.exchange(&exchange).await;
    rabbit.queue(&exchange, &exchange, &["#"]).await;
    let file = File::new("application.properties", &properties(&shop, &case, &exchange, broker));
    let child = file.run();
    shop.streaming().await;
    transactions(&shop.sql, &case["tx"]).await?;
    let expected = recorded["messages"].as_array().unwrap();
    let messages = rabbit.take(&exchange, expected.len(), PATIENCE).await;
    child.term();
    assert!(child.wait(PATIENCE).await.success());
    shop.leave().await;
    for (index, (message, ours)) in expected.iter().zip(&messages).enumerate() {
        same(message, ours).map_err(|why| format!("message {index}: {why}"))?;
    }
    Ok(())
}

/// What a file of that time has, and the case's own keys over it.
fn properties(shop: &Shop, case: &Value, exchange: &str, broker: &testbed::RabbitMq) -> String {
    let (name, database) = (&shop.name, &shop.database);
    let url = broker.url();
    let (_, port) = url.trim_end_matches("/%2f").rsplit_once(':').unwrap();
    let mut text = format!(
        "debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
         debezium.source.database.hostname=127.0.0.1\ndebezium.source.database.port={}\n\
         debezium.source.database.user=postgres\ndebezium.source.database.dbname={database}\n\
         debezium.source.topic.prefix={name}\ndebezium.source.slot.name={name}\ndebezium.source.plugin.name=pgoutput\n\
         debezium.source.publication.name={name}\ndebezium.source.snapshot.mode=no_data\n\
         debezium.sink.type=rabbitmq\ndebezium.sink.rabbitmq.connection.host=127.0.0.1\n\
         debezium.sink.rabbitmq.connection.port={port}\n\
         tailwater.compatibility=strict\ntailwater.http.listen=\n",
        shop.pg.port(),
    );
    for (key, value) in case["config"].as_object().unwrap() {
        let value = value.as_str().unwrap().replace("@case@", name).replace('\\', "\\\\");
        let value = if key == "debezium.sink.rabbitmq.exchange" { exchange } else { &value };
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}

fn same(message: &Value, ours: &Received) -> Result<(), String> {
    let mut masks: Vec<Value> = message["volatile"].as_array().cloned().unwrap_or_default();
    for part in ["", "/payload"] {
        for name in SERVERS_OWN.into_iter().chain(["version"]) {
            masks.push(json!({ "part": "body", "path": format!("{part}/source/{name}") }));
        }
    }
    if message["routing_key"] != json!(ours.routing_key) {
        return Err(format!("routing key {} instead of {}", ours.routing_key, message["routing_key"]));
    }
    same_bytes("body", &message["body"], Some(&ours.body), &masks)?;
    for (index, header) in message["headers"].as_array().unwrap().iter().enumerate() {
        let name = header[0].as_str().unwrap();
        let volatile = |mask: &&Value| mask["part"] == "header" && (mask["index"] == index || mask["name"] == name);
        let value = ours.header(name).ok_or_else(|| format!("header {name} is missing"))?;
        if masks.iter().find(volatile).is_none() && header[2]["utf8"].as_str() != Some(value.as_str()) {
            return Err(format!("header {name} is {value} instead of {}", header[2]));
        }
    }
    Ok(())
}
