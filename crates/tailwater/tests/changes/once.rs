//! Change events with `exactly_once`: what a `read_committed` consumer sees when the program is killed.

use super::*;
use rand::Rng;

/// `a` and `b`, rows in both, and the program's file for them; topics are made by the test.
struct Once {
    shop: Shop,
    kafka: &'static Kafka,
    port: u16,
    file: File,
}

impl Once {
    async fn new() -> Once {
        let (kafka, port) = (shared_kafka().await, free_port());
        let shop = Shop::new(
            "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int); \
             INSERT INTO a SELECT -n, 0 FROM generate_series(1, 2000) n; INSERT INTO b SELECT -n, 0 FROM generate_series(1, 2000) n",
        )
        .await;
        let sink = format!(
            "type = \"kafka\"\nbootstrap_servers = [\"{}\"]\nexactly_once = true\ntransactional_id = \"{name}\"\n\
             offsets_topic = \"{name}\"",
            kafka.bootstrap(),
            name = shop.name,
        );
        let source = format!("{}\npublication_autocreate = \"filtered\"", shop.url());
        let route = format!("topic_prefix = \"{}\"", shop.name);
        let file = shop.file(&format!("127.0.0.1:{port}"), &source, &route, &sink);
        Once { shop, kafka, port, file }
    }

    async fn topic(&self, table: &str) {
        self.kafka.create_topic(&self.shop.topic(table), 1, &[]).await;
    }

    async fn status(&self) -> Option<Value> {
        let answer = http_request("GET", self.port, "/api/v1/status", None, None).await.ok()?;
        let pipeline = answer.json()["pipelines"][0].clone();
        note(&pipeline);
        pipeline.is_object().then_some(pipeline)
    }

    /// Waits until this process has published so many.
    async fn published(&self, count: u64) {
        let reached = || async { (self.status().await?["counts"]["published"].as_u64()? >= count).then_some(()) };
        eventually(PATIENCE, reached).await;
    }

    /// Letter, id and `v` of all records that are committed; a tombstone is `[null, id, null]`.
    async fn committed(&self, table: &str) -> Vec<Value> {
        let records = self.kafka.records(&self.shop.topic(table)).await;
        let change = |record: &Record| json!([value(record)["op"], key(record)["id"], value(record)["after"]["v"]]);
        records.iter().map(change).collect()
    }

    /// Waits until a table has so many; that it has exactly these.
    async fn has(&self, table: &str, expected: &[Value]) {
        let there = || async {
            let seen = self.committed(table).await;
            note(seen.len());
            (seen.len() >= expected.len()).then_some(seen)
        };
        let seen = eventually(PATIENCE, there).await;
        let differs = seen.iter().zip(expected).position(|(ours, expected)| ours != expected);
        let near = differs.map(|at| (at, &seen[at], &expected[at]));
        assert_eq!((near, seen.len()), (None, expected.len()), "{table}: first difference, number");
    }

    /// Waits until all is there, ends the program, and looks once more.
    async fn ends_with(&self, child: Child, expected: &[(&str, Vec<Value>)]) {
        for (table, expected) in expected {
            self.has(table, expected).await;
        }
        child.term();
        assert!(child.wait(PATIENCE).await.success());
        for (table, expected) in expected {
            self.has(table, expected).await;
        }
    }
}

/// Inserts, updates and deletes rows of a table until it is stopped; what must be seen of that, in order.
fn writer(
    shop: &Shop,
    table: &'static str,
    stop: &tokio_util::sync::CancellationToken,
) -> tokio::task::JoinHandle<Vec<Value>> {
    let (pg, database, stop) = (shop.pg, shop.database.clone(), stop.clone());
    tokio::spawn(async move {
        let sql = pg.client(&database).await;
        let mut expected = Vec::new();
        for id in 1.. {
            if stop.is_cancelled() {
                break;
            }
            let several = format!(
                "BEGIN; INSERT INTO {table} VALUES ({id}, 1); UPDATE {table} SET v = 2 WHERE id = {id}; COMMIT"
            );
            sql.batch_execute(&several).await.unwrap();
            sql.batch_execute(&format!("BEGIN; UPDATE {table} SET v = 9 WHERE id = {id}; ROLLBACK")).await.unwrap();
            expected.extend([json!(["c", id, 1]), json!(["u", id, 2])]);
            if id % 3 == 0 {
                sql.batch_execute(&format!("DELETE FROM {table} WHERE id = {id}")).await.unwrap();
                expected.extend([json!(["d", id, null]), json!([null, id, null])]);
            }
        }
        expected
    })
}

fn snapshot() -> Vec<Value> {
    (1..=2000).map(|id| json!(["r", -id, 0])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_seen_once_and_in_order_however_often_the_program_is_killed() {
    let once = Once::new().await;
    once.topic("a").await;
    once.topic("b").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut child = once.file.run();
    once.shop.streaming().await;
    let writers = ["a", "b"].map(|table| writer(&once.shop, table, &stop));
    let kills = 6;
    for _ in 0..kills {
        let some = rand::rng().random_range(1..400);
        once.published(some).await;
        assert!(child.ended().is_none(), "ended by itself:\n{}", child.stderr().join("\n"));
        child.kill9();
        child = once.file.run();
    }
    once.published(100).await;
    stop.cancel();
    let mut expected = Vec::new();
    for (table, writer) in ["a", "b"].into_iter().zip(writers) {
        expected.push((table, [snapshot(), writer.await.unwrap()].concat()));
    }
    once.ends_with(child, &expected).await;
    println!("{} and {} changes, each once, {kills} kills", expected[0].1.len(), expected[1].1.len());
}

/// The limit that docs/debezium.md names: a snapshot begins anew, so what was published of it comes again; and nothing of the
/// stream does.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_killed_comes_again_whole_and_the_stream_behind_it_once() {
    let once = Once::new().await;
    once.topic("a").await; // b has none: the snapshot holds behind a
    let child = once.file.run();
    let held = || async { once.status().await.filter(|status| status["state"] == "held") };
    eventually(PATIENCE, held).await;
    once.has("a", &snapshot()).await;
    child.kill9();
    // what is in the tables when the snapshot begins anew is another thing
    once.shop.run("UPDATE a SET v = 7 WHERE id = -1; DELETE FROM a WHERE id = -2").await;
    once.topic("b").await;
    let child = once.file.run();
    once.shop.streaming().await;
    once.shop.run("INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1)").await;
    let mut again: Vec<Value> = snapshot().into_iter().filter(|row| row[1] != -1 && row[1] != -2).collect();
    again.push(json!(["r", -1, 7]));
    let created = vec![json!(["c", 1, 1])];
    let expected = [("a", [snapshot(), again, created.clone()].concat()), ("b", [snapshot(), created].concat())];
    once.ends_with(child, &expected).await;
}
