//! The HTTP side, over a real socket and a real PostgreSQL: what is written, what is refused, and `/tables`.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use deadpool_postgres::Pool;
use orders::database;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use testbed::{Child, HttpAnswer, http_get, http_request};
use tokio::net::TcpListener;
use uuid::Uuid;

const PATTERNS: [(&str, &str); 3] = [
    ("transactional-outbox", "Transactional_Outbox"),
    ("listen-to-yourself", "Listen_To_Yourself"),
    ("transactional-log-tailing", "Transactional_Log_Tailing"),
];

/// A database of its own with the service's tables: its URL and a pool.
async fn database() -> (String, Pool) {
    let pg = testbed::shared_postgres().await;
    let url = pg.url(&pg.database("orders").await);
    let pool = database::pool(&url).unwrap();
    database::migrate(&pool).await.unwrap();
    database::migrate(&pool).await.unwrap(); // a second time is harmless
    (url, pool)
}

async fn serve(pool: &Pool, tables: Option<&str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = orders::api::router(pool.clone(), tables.map(|tables| tables.parse().unwrap()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

async fn post(port: u16, path: &str, body: &Value) -> HttpAnswer {
    http_request("POST", port, path, None, Some(&body.to_string())).await.unwrap()
}

async fn get(port: u16, path: &str) -> HttpAnswer {
    http_get(port, path, None).await.unwrap()
}

async fn count(pool: &Pool, what: &str) -> i64 {
    pool.get().await.unwrap().query_one(&format!("SELECT count(*) FROM {what}"), &[]).await.unwrap().get(0)
}

/// Rows in `orders` and in the three tables of events.
async fn written(pool: &Pool) -> [i64; 4] {
    let mut all = [count(pool, "orders").await, 0, 0, 0];
    for (index, (_, table)) in PATTERNS.iter().enumerate() {
        all[index + 1] = count(pool, &format!("\"{table}\"")).await;
    }
    all
}

fn order() -> Value {
    json!({"customer": "Ann", "item": "hat", "quantity": 2})
}

#[tokio::test]
async fn order_and_event_are_written_together_and_listening_to_oneself_stores_the_event_alone() {
    let (_, pool) = database().await;
    let port = serve(&pool, None).await;
    let expected = [(201, "placed", 200), (202, "accepted", 202), (201, "placed", 200)];
    let rows = [[1, 1, 0, 0], [1, 1, 1, 0], [2, 1, 1, 1]];
    for (((pattern, table), (status, said, read)), rows) in PATTERNS.into_iter().zip(expected).zip(rows) {
        let answer = post(port, &format!("/orders/{pattern}"), &order()).await;
        assert_eq!((answer.status, &answer.json()["status"]), (status, &json!(said)), "{pattern}");
        assert_eq!(written(&pool).await, rows, "orders, and events of each pattern, after {pattern}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        let sql = format!("SELECT id::text, aggregatetype, aggregateid, type, payload FROM \"{table}\"");
        let row = pool.get().await.unwrap().query_one(&sql, &[]).await.unwrap();
        let topic = ["Orders_1", "Orders_2", "Orders_3"][PATTERNS.iter().position(|(p, _)| *p == pattern).unwrap()];
        let texts = [row.get::<_, &str>(0), row.get(1), row.get(2), row.get(3)];
        assert_eq!(texts, [&*id, topic, &*id, "order.placed"]);
        let payload = json!({"order_id": id, "pattern": pattern, "customer": "Ann", "item": "hat", "quantity": 2});
        assert_eq!(row.get::<_, Value>(4), payload);
        // what a reader sees before anybody has heard of the event
        let shown = get(port, &format!("/orders/{id}")).await;
        assert_eq!((shown.status, &shown.json()["status"]), (read, &json!(said)), "{pattern}: {}", shown.body);
    }
}

#[tokio::test]
async fn the_pattern_is_taken_from_the_field_too_by_name_topic_or_table() {
    let (_, pool) = database().await;
    let port = serve(&pool, None).await;
    for pattern in ["transactional-outbox", "Orders_1", "Transactional_Outbox"] {
        let mut body = order();
        body["pattern"] = json!(pattern);
        let answer = post(port, "/orders", &body).await;
        assert_eq!((answer.status, &answer.json()["pattern"]), (201, &json!("transactional-outbox")));
    }
    assert_eq!(written(&pool).await, [3, 3, 0, 0]);
}

#[tokio::test]
async fn an_order_whose_event_cannot_be_written_is_not_written_either() {
    let (_, pool) = database().await;
    let port = serve(&pool, None).await;
    for (pattern, table) in PATTERNS {
        let refuse = format!("ALTER TABLE \"{table}\" ADD CHECK (false) NOT VALID");
        pool.get().await.unwrap().batch_execute(&refuse).await.unwrap();
        let answer = post(port, &format!("/orders/{pattern}"), &order()).await;
        assert_eq!(answer.status, 503, "{pattern}: {}", answer.body);
    }
    assert_eq!(written(&pool).await, [0; 4]);
}

/// The answer is about what is committed, not about what is on its way to be.
#[tokio::test]
async fn what_fails_at_the_commit_is_not_answered_with_yes() {
    let (_, pool) = database().await;
    let port = serve(&pool, None).await;
    let function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$";
    pool.get().await.unwrap().batch_execute(function).await.unwrap();
    for (pattern, table) in PATTERNS {
        let trigger = format!(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON \"{table}\" DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        pool.get().await.unwrap().batch_execute(&trigger).await.unwrap();
        let answer = post(port, &format!("/orders/{pattern}"), &order()).await;
        assert_eq!(answer.status, 503, "{pattern}: {}", answer.body);
    }
    assert_eq!(written(&pool).await, [0; 4]);
}

#[tokio::test]
async fn asking_again_with_the_same_id_is_the_same_order_also_in_parallel() {
    let (_, pool) = database().await;
    let ports = [serve(&pool, None).await, serve(&pool, None).await];
    for (index, (pattern, table)) in PATTERNS.into_iter().enumerate() {
        let mut body = order();
        body["id"] = json!(Uuid::now_v7());
        let calls: Vec<_> = (0..8)
            .map(|turn| {
                let (body, path) = (body.clone(), format!("/orders/{pattern}"));
                tokio::spawn(async move { post(ports[turn % 2], &path, &body).await })
            })
            .collect();
        let mut answers = BTreeSet::new();
        for call in calls {
            let answer = call.await.unwrap();
            answers.insert((answer.status, answer.body));
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(count(&pool, &format!("\"{table}\"")).await, 1, "{pattern}");

        // another order under that id, or the same in another pattern, is not silently taken for it
        let other = json!({"id": body["id"], "customer": "Ann", "item": "hat", "quantity": 3});
        let next = PATTERNS[(index + 1) % 3].0;
        for (path, body) in [(pattern, &other), (next, &body)] {
            let answer = post(ports[0], &format!("/orders/{path}"), body).await;
            assert_eq!(answer.status, 409, "{pattern}, then {path}: {}", answer.body);
        }
    }
    assert_eq!(written(&pool).await, [2, 1, 1, 1]);
}

#[tokio::test]
async fn a_wrong_request_is_answered_in_words_and_writes_nothing() {
    let (_, pool) = database().await;
    let port = serve(&pool, None).await;
    let long = "x".repeat(201);
    for (path, body, word) in [
        ("/orders", order(), "pattern"),
        ("/orders/outbox", order(), "transactional-outbox (Orders_1)"),
        ("/orders/Orders_1", json!({"customer": "Ann", "item": "hat", "quantity": 0}), "quantity"),
        ("/orders/Orders_1", json!({"customer": "Ann", "item": "hat", "quantity": 1.5}), "quantity"),
        ("/orders/Orders_1", json!({"customer": "Ann", "item": "hat", "quantity": 3_000_000_000u32}), "quantity"),
        ("/orders/Orders_1", json!({"customer": " ", "item": "hat", "quantity": 1}), "customer"),
        ("/orders/Orders_1", json!({"customer": "Ann", "item": "\u{0}", "quantity": 1}), "item"),
        ("/orders/Orders_1", json!({"customer": long, "item": "hat", "quantity": 1}), "customer"),
        ("/orders/Orders_1", json!({"customer": "Ann", "quantity": 1}), "item"),
        ("/orders/Orders_1", json!({"id": "17", "customer": "Ann", "item": "hat", "quantity": 1}), "id"),
        ("/orders/Orders_1", json!({"customer": "Ann", "item": "hat", "quantity": 1, "colour": "red"}), "colour"),
    ] {
        let answer = post(port, path, &body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{path} {body}: {}", answer.body);
    }
    let broken = http_request("POST", port, "/orders/Orders_1", None, Some("{")).await.unwrap();
    assert_eq!(broken.status, 400, "{}", broken.body);
    for path in ["/orders/17", "/orders/0199c0de-0000-7000-8000-000000000017"] {
        assert_eq!(get(port, path).await.status, 404);
    }
    assert_eq!(written(&pool).await, [0; 4]);
}

#[tokio::test]
async fn without_the_database_the_answer_is_503_and_names_no_internals() {
    let pool = database::pool("postgres://postgres@127.0.0.1:1/none").unwrap();
    let port = serve(&pool, Some("orders:created_at")).await;
    for answer in [post(port, "/orders/Orders_1", &order()).await, get(port, "/tables/orders").await] {
        assert_eq!(answer.status, 503);
        assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
    }
}

#[tokio::test]
async fn tables_shows_the_newest_rows_of_the_named_tables_and_of_no_other() {
    let (_, pool) = database().await;
    let port = serve(&pool, Some("orders:created_at,Listen_To_Yourself:created_at")).await;
    for customer in ["Ann", "Bob"] {
        let body = json!({"customer": customer, "item": "hat", "quantity": 1});
        assert_eq!(post(port, "/orders/Orders_1", &body).await.status, 201);
    }
    let overview = get(port, "/tables").await;
    assert!(overview.body.contains("href=\"/tables/Listen_To_Yourself\""), "{}", overview.body);
    let page = get(port, "/tables/orders").await.body;
    let at = |name: &str| page.find(&format!("<td>{name}</td>")).unwrap();
    assert!(at("Bob") < at("Ann"), "newest first: {page}");
    for hidden in ["Transactional_Outbox", "inbox", "pg_shadow", "orders%22%20--"] {
        assert_eq!(get(port, &format!("/tables/{hidden}")).await.status, 404, "{hidden}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(http_request(method, port, "/tables/orders", None, None).await.unwrap().status, 405);
    }
    assert_eq!(get(serve(&pool, None).await, "/tables").await.status, 404, "nothing is shown unless it is asked for");
}

#[tokio::test]
async fn tables_answers_only_under_a_name_of_this_machine() {
    let (url, pool) = database().await;
    let port = serve(&pool, Some("orders:created_at")).await;
    let asked = |host: String| async move {
        let address = format!("http://127.0.0.1:{port}/tables");
        let args = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Host: {host}"), &address];
        let output = tokio::process::Command::new("curl").args(args).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "localhost".into()]
    {
        assert_eq!(asked(host.clone()).await, "200", "{host}");
    }
    for host in [format!("shop.example:{port}"), "10.0.0.1".into(), "localhost.example".into()] {
        assert_eq!(asked(host.clone()).await, "403", "{host}");
    }
    // and it is not served to the network at all
    let mut api = Command::new(env!("CARGO_BIN_EXE_orders"));
    api.arg("api").env("DATABASE_URL", url).env("LISTEN", "0.0.0.0:0").env("TABLES", "orders:created_at");
    let api = Child::start(api);
    assert_eq!(api.wait(Duration::from_secs(20)).await.code(), Some(1));
    assert!(api.stderr().join("\n").contains("listen on 127.0.0.1"), "{:?}", api.stderr());
}

#[tokio::test]
async fn what_a_row_holds_is_text_in_a_real_browser() {
    let (_, pool) = database().await;
    let port = serve(&pool, Some("orders:created_at")).await;
    let customer = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let body = json!({"customer": customer, "item": "<b>hat</b>", "quantity": 1});
    assert_eq!(post(port, "/orders/Orders_1", &body).await.status, 201);
    let url = format!("http://127.0.0.1:{port}/tables/orders");
    let dom = tokio::task::spawn_blocking(move || testbed::browser::dom(&url)).await.unwrap();
    assert!(dom.contains("<title>orders</title>"), "{dom}");
    assert!(dom.contains("&lt;img src=x onerror=") && dom.contains("<td>&lt;b&gt;hat&lt;/b&gt;</td>"), "{dom}");
    assert!(!dom.contains("<img") && !dom.contains("<script"), "{dom}");
}
