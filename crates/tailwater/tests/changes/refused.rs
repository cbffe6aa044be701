//! What cannot be published is said by name, before the first change.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_a_type_that_is_not_covered_is_named_at_start() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TYPE spot AS (x int, y int); CREATE TABLE places (id int PRIMARY KEY, spot spot, line line); \
         CREATE TABLE orders (id int PRIMARY KEY)",
    )
    .await;
    process.topic(&shop.topic("places")).await;
    process.topic(&shop.topic("orders")).await;
    process.post(&shop.name, &shop.connector(json!({}))).await.unwrap();
    let trace = process.failed(&shop.name).await;
    assert!(trace.contains("public.places") && trace.contains("column.exclude.list=public.places."), "{trace}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    let count: i64 = shop.sql.query_one(slots, &[&shop.name]).await.unwrap().get(0);
    assert_eq!(count, 0, "nothing was begun");

    let more = json!({ "column.exclude.list": "public.places.(spot|line)" });
    let path = format!("/connectors/{}/config", shop.name);
    process.request("PUT", &path, Some(shop.connector(more))).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO places VALUES (1, '(1,2)', '{1,2,3}')").await;
    assert_eq!(value(&process.records(&shop.topic("places"), 1).await[0])["after"], json!({ "id": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_log_will_not_have_is_named_at_start() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE t (id int PRIMARY KEY, number int NOT NULL)").await;
    let more = json!({ "message.key.columns": "public.t:number", "snapshot.mode": "no_data" });
    process.topic(&shop.topic("t")).await;
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    let trace = process.failed(&shop.name).await;
    assert!(trace.contains("ALTER TABLE public.t REPLICA IDENTITY FULL"), "{trace}");
    shop.run("ALTER TABLE t REPLICA IDENTITY FULL").await;
    process.request("POST", &format!("/connectors/{}/restart?includeTasks=true", shop.name), None).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO t VALUES (1, 5); DELETE FROM t").await;
    let records = process.records(&shop.topic("t"), 3).await;
    assert!(records.iter().all(|record| key(record) == json!({ "number": 5 })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_connector_asks_for_in_vain_is_refused_when_it_is_posted() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    for (more, tells) in [
        (json!({ "column.mask.with.3.chars": "public.t.id" }), "column.mask.with.3.chars"),
        (json!({ "time.precision.mode": "structured" }), "structured"),
        (json!({ "table.inclde.list": "x" }), "did you mean `table.include.list`?"),
        (json!({ "publication.autocreate.mode": "some" }), "`some` is none of all_tables"),
        (
            json!({ "topic.naming.strategy": "io.debezium.schema.SchemaRegexTopicNamingStrategy" }),
            "topic.naming.strategy",
        ),
        (json!({ "tailwater.http.listen": "0.0.0.0:1" }), "process's own configuration"),
    ] {
        let said = process.post(&shop.name, &shop.connector(more)).await.unwrap_err();
        assert!(said.contains(tells), "{tells}: {said}");
    }
    assert_eq!(process.request("GET", "/connectors", None).await, Ok(json!([])));
}
