//! The HTTP side, over a real socket and a real PostgreSQL.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

mod common;

use common::{count, database};
use deadpool_postgres::Pool;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

async fn serve(pool: &Pool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = reports::api::router(pool.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

async fn call(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer { status: head[9..12].parse().unwrap(), head: head.into(), body: body.into() }
}

async fn post(port: u16, key: Option<&str>, body: &Value) -> Answer {
    let key = key.map_or_else(String::new, |key| format!("Idempotency-Key: {key}\r\n"));
    call(port, "POST", "/reports", &format!("Content-Type: application/json\r\n{key}"), &body.to_string()).await
}

#[tokio::test]
async fn a_request_writes_report_and_event_together_and_answers_where_to_look() {
    let (_, pool) = database().await;
    let port = serve(&pool).await;
    let answer = post(port, None, &json!({"user_id": 1, "from": "2026-01-02"})).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let status_url = answer.header("location").unwrap();
    assert_eq!(answer.json()["status_url"], status_url);

    let client = pool.get().await.unwrap();
    let sql = "SELECT event_type, user_id, idempotency_key, payload FROM outbox";
    let row = client.query_one(sql, &[]).await.unwrap();
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, &str>(2)), ("report.requested", 1, &*id));
    assert_eq!(row.get::<_, Value>(3), json!({"report_id": id, "user_id": 1, "from": "2026-01-02", "to": null}));

    let shown = call(port, "GET", status_url, "", "").await;
    assert_eq!((shown.status, &shown.json()["status"]), (200, &json!("requested")));
    assert_eq!(call(port, "GET", &format!("{status_url}/export"), "", "").await.status, 404);

    let body = common::body(id.parse().unwrap(), 1, &id).to_string();
    reports::worker::handle(&pool, body.as_bytes()).await.unwrap();
    let shown = call(port, "GET", status_url, "", "").await.json();
    assert_eq!((&shown["status"], &shown["rows"]), (&json!("done"), &json!(24)));
    let csv = call(port, "GET", shown["export_url"].as_str().unwrap(), "", "").await;
    assert_eq!((csv.status, csv.header("content-type")), (200, Some("text/csv; charset=utf-8")));
    assert!(csv.body.starts_with("happened_at,action,detail\n"));
}

#[tokio::test]
async fn the_same_key_is_the_same_report_also_in_parallel() {
    let (_, pool) = database().await;
    let port = serve(&pool).await;
    let request = json!({"user_id": 2});
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move { post(port, Some("\"my-key\""), &request).await })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for call in calls {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 202);
        ids.insert(answer.header("location").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!((count(&pool, "report").await, count(&pool, "outbox WHERE idempotency_key = 'my-key'").await), (1, 1));
    let other = post(port, Some("my-key"), &json!({"user_id": 3})).await;
    assert_eq!(other.status, 422, "{}", other.body);
}

#[tokio::test]
async fn a_wrong_request_is_answered_in_words_and_writes_nothing() {
    let (_, pool) = database().await;
    let port = serve(&pool).await;
    for (key, body, word) in [
        (None, json!({"user_id": 0}), "user_id"),
        (None, json!({"user": 1}), "user"),
        (None, json!({"user_id": 1, "to": "tomorrow"}), "to"),
        (Some("a b"), json!({"user_id": 1}), "Idempotency-Key"),
    ] {
        let answer = post(port, key, &body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.json()["error"].as_str().unwrap().contains(word), "{}", answer.body);
    }
    for path in ["/reports/17", "/reports/0199c0de-0000-7000-8000-000000000017"] {
        assert_eq!(call(port, "GET", path, "", "").await.status, 404);
    }
    assert_eq!((count(&pool, "report").await, count(&pool, "outbox").await), (0, 0));
}

#[tokio::test]
async fn without_the_database_the_answer_is_503_and_names_no_internals() {
    let pool = reports::database::pool("postgres://postgres@127.0.0.1:1/none").unwrap();
    let answer = post(serve(&pool).await, None, &json!({"user_id": 1})).await;
    assert_eq!(answer.status, 503);
    assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
}
