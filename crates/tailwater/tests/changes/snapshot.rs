//! The snapshot of several tables and of partitioned ones: where each row stands, and each row once over snapshot and stream.

use super::*;
use std::collections::BTreeMap;

fn marker(record: &Record) -> String {
    value(record)["source"]["snapshot"].as_str().unwrap().to_owned()
}

/// The markers of all rows of these tables, table by table.
async fn markers(tables: &[(&str, usize)]) -> Vec<Vec<String>> {
    let process = Process::start().await;
    let ddl = tables.iter().map(|(table, rows)| {
        format!("CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} SELECT generate_series(1, {rows}); ")
    });
    let shop = Shop::new(&ddl.collect::<String>()).await;
    for (table, _) in tables {
        process.topic(&shop.topic(table)).await;
    }
    process.post(&shop.name, &shop.connector(json!({}))).await.unwrap();
    shop.streaming().await;
    let mut markers = Vec::new();
    for (table, rows) in tables {
        let records = process.records(&shop.topic(table), *rows).await;
        assert!(records.iter().all(|record| value(record)["op"] == "r"), "{table}");
        markers.push(records.iter().map(marker).collect());
    }
    markers
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_a_snapshot_says_where_it_stands_among_the_tables() {
    let three = ["first_in_data_collection", "true", "last_in_data_collection"];
    let first = ["first", "true", "last_in_data_collection"];
    let none: [&str; 0] = [];

    let seen = markers(&[("a", 3), ("b", 0), ("c", 1), ("d", 3), ("e", 2)]).await;
    let last_two = ["first_in_data_collection", "last"];
    assert_eq!(seen, [&first[..], &none, &["last_in_data_collection"], &three, &last_two]);

    // behind an empty last table the row before it is the last all the same
    let seen = markers(&[("a", 3), ("b", 3), ("c", 0), ("d", 0)]).await;
    assert_eq!(seen, [&first[..], &["first_in_data_collection", "true", "last"], &none, &none]);

    // behind an empty first table nothing is the first
    let seen = markers(&[("a", 0), ("b", 3), ("c", 1)]).await;
    assert_eq!(seen, [&none[..], &three, &["last"]]);

    // one row has one marker
    assert_eq!(markers(&[("a", 1), ("b", 0)]).await, [&["last"][..], &none]);
    assert_eq!(markers(&[("a", 1), ("b", 1)]).await, [["first"], ["last"]]);
}

/// Rows of before, and writers at work all the time; of a partition made later too. Topics that must stay unused are not
/// there: a record for one would hold the pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_partitioned_table_come_once_under_the_name_that_the_publication_gives_them() {
    for via_root in [false, true] {
        let process = Process::start().await;
        let shop = Shop::new(
            "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
             CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10000); \
             CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10000) TO (20000); \
             INSERT INTO p SELECT n, 'before' FROM generate_series(0, 1999) n; \
             INSERT INTO p SELECT n, 'before' FROM generate_series(10000, 11999) n",
        )
        .await;
        let tables: &[&str] = if via_root { &["p"] } else { &["p_1", "p_2", "p_3"] };
        for table in tables {
            process.topic(&shop.topic(table)).await;
        }
        let writer = |from: u32| {
            let (pg, database) = (shop.pg, shop.database.clone());
            tokio::spawn(async move {
                let sql = pg.client(&database).await;
                for id in from..from + 1500 {
                    sql.batch_execute(&format!("INSERT INTO p VALUES ({id}, 'while')")).await.unwrap();
                }
            })
        };
        let writers = [writer(2000), writer(12000)];
        let more = json!({ "publish.via.partition.root": via_root.to_string() });
        process.post(&shop.name, &shop.connector(more)).await.unwrap();
        shop.streaming().await;
        for writer in writers {
            writer.await.unwrap();
        }
        shop.run("CREATE TABLE p_3 PARTITION OF p FOR VALUES FROM (20000) TO (30000)").await;
        shop.run("INSERT INTO p SELECT n, 'later' FROM generate_series(20000, 20099) n").await;
        let counts: &[usize] = if via_root { &[7100] } else { &[3500, 3500, 100] };
        let mut seen = BTreeMap::<i64, String>::new();
        let mut letters = BTreeMap::<String, u32>::new();
        for (table, count) in tables.iter().zip(counts) {
            for record in process.records(&shop.topic(table), *count).await {
                let (id, value) = (key(&record)["id"].as_i64().unwrap(), value(&record));
                assert_eq!((&value["source"]["table"], &value["after"]["id"]), (&json!(table), &json!(id)));
                assert!(via_root || *table == format!("p_{}", id / 10000 + 1), "{id} in {table}");
                assert_eq!(seen.insert(id, value["after"]["v"].to_string()), None, "{id} came twice");
                *letters.entry(value["op"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        assert_eq!(seen.len(), 7100);
        let (by_snapshot, by_stream) = (letters["r"], letters["c"]);
        println!("via root {via_root}: {by_snapshot} rows by snapshot, {by_stream} by stream");
        assert!(by_snapshot >= 4000 && by_stream > 100 && letters.len() == 2, "{letters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_asked_for_by_its_own_name_is_captured_or_refused_but_not_passed_over() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE other (id int PRIMARY KEY); \
         CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1)",
    )
    .await;
    process.topic(&shop.topic("p")).await;
    process.topic(&shop.topic("other")).await;
    let only = |more: Value| {
        let mut config = shop.connector(json!({ "table.include.list": "public.p,public.other" }));
        merge(&mut config, &more);
        config
    };
    process.post(&shop.name, &only(json!({}))).await.unwrap();
    let trace = process.failed(&shop.name).await;
    assert!(trace.contains("publishes its partitions under their own names"), "{trace}");
    assert!(trace.contains("SET (publish_via_partition_root = true)"), "{trace}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    assert_eq!(shop.sql.query_one(slots, &[&shop.name]).await.unwrap().get::<_, i64>(0), 0, "nothing was begun");
    shop.run("ALTER PUBLICATION dbz_publication SET (publish_via_partition_root = true)").await;
    process.request("POST", &format!("/connectors/{}/restart?includeTasks=true", shop.name), None).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO p VALUES (2)").await;
    let records = process.records(&shop.topic("p"), 2).await;
    assert_eq!(records.iter().map(|record| value(record)["op"].clone()).collect::<Vec<_>>(), ["r", "c"]);
}
