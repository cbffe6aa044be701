//! Tables that come while the connector runs: with a publication of all tables, and with one that somebody alters.

use super::*;

/// Topic, letter and id, of all records of some tables.
async fn seen(process: &Process, shop: &Shop, tables: &[(&str, usize)]) -> Vec<Value> {
    let mut seen = Vec::new();
    for (table, count) in tables {
        let topic = format!("{}.{table}", shop.name);
        let records = process.records(&topic, *count).await;
        seen.extend(records.iter().map(|record| json!([table, value(record)["op"], key(record)["id"]])));
    }
    seen
}

async fn topics(process: &Process, shop: &Shop, tables: &[&str]) {
    for table in tables {
        process.topic(&format!("{}.{table}", shop.name)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_publication_of_all_tables_those_made_before_and_after_the_start_flow() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TABLE early (id int PRIMARY KEY); INSERT INTO early VALUES (1); CREATE SCHEMA more; \
         CREATE TABLE more.early (id int PRIMARY KEY)",
    )
    .await;
    topics(&process, &shop, &["public.early", "more.early", "public.later", "late.later", "public.last"]).await;
    let all = json!({ "publication.autocreate.mode": "all_tables" });
    process.post(&shop.name, &shop.connector(all)).await.unwrap();
    shop.streaming().await;
    let made = "SELECT puballtables AND pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_publication";
    assert!(shop.sql.query_one(made, &[]).await.unwrap().get::<_, bool>(0));
    shop.run(
        "INSERT INTO early VALUES (2); INSERT INTO more.early VALUES (1); CREATE SCHEMA late; \
         CREATE TABLE later (id int PRIMARY KEY); CREATE TABLE late.later (id int PRIMARY KEY, v text DEFAULT 'x'); \
         INSERT INTO later VALUES (1); INSERT INTO late.later VALUES (1); UPDATE late.later SET v = 'y'",
    )
    .await;
    let tables = [("public.early", 2), ("more.early", 1), ("public.later", 1), ("late.later", 2)];
    let expected = [
        json!(["public.early", "r", 1]),
        json!(["public.early", "c", 2]),
        json!(["more.early", "c", 1]),
        json!(["public.later", "c", 1]),
        json!(["late.later", "c", 1]),
        json!(["late.later", "u", 1]),
    ];
    assert_eq!(seen(&process, &shop, &tables).await, expected);
    // made and filled while nobody reads
    let path = |what: &str| format!("/connectors/{}/{what}", shop.name);
    process.request("PUT", &path("stop"), None).await.unwrap();
    let free = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND NOT active)";
    let left = || async { shop.sql.query_one(free, &[&shop.name]).await.unwrap().get::<_, bool>(0).then_some(()) };
    eventually(PATIENCE, left).await;
    shop.run("CREATE TABLE last (id int PRIMARY KEY); INSERT INTO last VALUES (1)").await;
    process.request("PUT", &path("resume"), None).await.unwrap();
    assert_eq!(seen(&process, &shop, &[("public.last", 1)]).await, [json!(["public.last", "c", 1])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_no_superuser_is_told_who_can_make_a_publication_of_all_tables() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (role, database) = (&shop.name, &shop.database);
    shop.run(&format!(
        "CREATE ROLE {role} LOGIN REPLICATION; ALTER TABLE t OWNER TO {role}; GRANT CREATE ON DATABASE {database} TO {role}"
    ))
    .await;
    process.topic(&shop.topic("t")).await;
    let more = json!({ "publication.autocreate.mode": "all_tables", "database.user": role });
    process.post(&shop.name, &shop.connector(more)).await.unwrap();
    let trace = process.failed(&shop.name).await;
    assert!(trace.contains("as superuser: CREATE PUBLICATION dbz_publication FOR ALL TABLES;"), "{trace}");
    assert!(!trace.contains("GRANT CREATE ON DATABASE"), "it has that, and it does not help: {trace}");
    shop.run("CREATE PUBLICATION dbz_publication FOR ALL TABLES").await;
    process.request("POST", &format!("/connectors/{}/restart?includeTasks=true", shop.name), None).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(seen(&process, &shop, &[("public.t", 1)]).await, [json!(["public.t", "c", 1])]);
}

/// Somebody adds a table to the publication: its changes come from then on, its rows of before do not, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_joins_the_publication_later_flows_from_then_on() {
    let process = Process::start().await;
    let shop = Shop::new(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v text); \
         INSERT INTO b VALUES (1, 'before'); CREATE PUBLICATION dbz_publication FOR TABLE a",
    )
    .await;
    topics(&process, &shop, &["public.a", "public.b"]).await;
    process.post(&shop.name, &shop.connector(json!({ "publication.autocreate.mode": "disabled" }))).await.unwrap();
    shop.streaming().await;
    shop.run("INSERT INTO a VALUES (1)").await;
    shop.run("INSERT INTO b VALUES (2, 'before')").await;
    shop.run("ALTER PUBLICATION dbz_publication ADD TABLE b").await;
    shop.run("INSERT INTO b VALUES (3, 'after'); UPDATE b SET v = 'after' WHERE id = 1; INSERT INTO a VALUES (2)")
        .await;
    let expected = [
        json!(["public.a", "c", 1]),
        json!(["public.a", "c", 2]),
        json!(["public.b", "c", 3]),
        json!(["public.b", "u", 1]),
    ];
    assert_eq!(seen(&process, &shop, &[("public.a", 2), ("public.b", 2)]).await, expected);
    let notice = "table public.b is captured from now on; rows that were there before are not read";
    process.child.wait_for(notice, PATIENCE).await;
}

/// By default the publication is of the captured tables, and a new one joins it when the connector starts again.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_made_later_joins_the_publication_of_the_captured_tables_at_the_next_start() {
    let process = Process::start().await;
    let shop = Shop::new("CREATE TABLE a (id int PRIMARY KEY)").await;
    topics(&process, &shop, &["public.a", "public.b"]).await;
    process.post(&shop.name, &shop.connector(json!({}))).await.unwrap();
    shop.streaming().await;
    shop.run("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1); INSERT INTO a VALUES (1)").await;
    assert_eq!(seen(&process, &shop, &[("public.a", 1)]).await, [json!(["public.a", "c", 1])]);
    process.request("POST", &format!("/connectors/{}/restart?includeTasks=true", shop.name), None).await.unwrap();
    process.child.wait_for("ALTER PUBLICATION dbz_publication ADD TABLE public.b;", PATIENCE).await;
    shop.run("INSERT INTO b VALUES (2); INSERT INTO a VALUES (2)").await;
    let expected = [json!(["public.a", "c", 1]), json!(["public.a", "c", 2]), json!(["public.b", "c", 2])];
    assert_eq!(seen(&process, &shop, &[("public.a", 2), ("public.b", 1)]).await, expected);
}
