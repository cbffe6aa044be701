//! The HTTP port as an orchestrator, a scraper and `tailwater status` see it.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::net::SocketAddr;
use std::sync::Arc;
use tailwater::config::HttpConfig;
use tailwater::config::secret::Secret;
use tailwater::control::Control;
use tailwater::metrics::{Board, State, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Sends one GET; the answer as it came, head and body.
async fn get(address: SocketAddr, path: &str, token: Option<&str>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let authorization = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn open(token: Option<&str>) -> (SocketAddr, Arc<Status>, CancellationToken) {
    let status = Arc::new(Status::new("main"));
    let http = HttpConfig {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        token: token.map(Secret::new),
        ..HttpConfig::default()
    };
    let control =
        Control::bind(&http, Board::from_iter([status.clone()])).await.unwrap().expect("a port is configured");
    let (address, stop) = (control.address, CancellationToken::new());
    tokio::spawn(control.serve(stop.clone()));
    (address, status, stop)
}

#[tokio::test]
async fn readiness_follows_the_pipeline() {
    let (address, status, stop) = open(None).await;
    assert!(get(address, "/health/live", None).await.starts_with("HTTP/1.1 200"));
    let starting = get(address, "/health/ready", None).await;
    assert!(starting.starts_with("HTTP/1.1 503") && starting.contains(r#"{"main":["starting"]}"#), "{starting}");
    status.set_state(State::Streaming);
    status.source_seen.touch();
    status.sink_seen.touch();
    let ready = get(address, "/health/ready", None).await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains(r#""ready":true"#), "{ready}");
    stop.cancel();
}

#[tokio::test]
async fn numbers_are_for_those_with_the_token_and_health_is_for_all() {
    let (address, _status, _stop) = open(Some("s3cret")).await;
    for path in ["/metrics", "/api/v1/status"] {
        assert!(get(address, path, None).await.starts_with("HTTP/1.1 401"), "{path}");
        assert!(get(address, path, Some("wrong")).await.starts_with("HTTP/1.1 401"), "{path}");
        let answer = get(address, path, Some("s3cret")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("s3cret"), "{answer}");
    }
    assert!(get(address, "/health/live", None).await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/health/ready", None).await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let (address, _status, _stop) = open(None).await;
    let http = HttpConfig { listen: Some(address), ..HttpConfig::default() };
    let error = Control::bind(&http, Board::default()).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("free port"), "{error}");
}

#[tokio::test]
async fn an_open_request_does_not_hold_up_the_stop() {
    let status = Arc::new(Status::new("main"));
    let http = HttpConfig { listen: Some("127.0.0.1:0".parse().unwrap()), ..HttpConfig::default() };
    let control = Control::bind(&http, Board::from_iter([status])).await.unwrap().expect("a port is configured");
    let (address, stop) = (control.address, CancellationToken::new());
    let serving = tokio::spawn(control.serve(stop.clone()));
    let _silent = TcpStream::connect(address).await.unwrap();
    get(address, "/health/live", None).await;
    stop.cancel();
    tokio::time::timeout(std::time::Duration::from_secs(10), serving).await.expect("ends at once").unwrap();
}

/// Slow loris: a head that never ends, or never begins, is cut off; who asks properly meanwhile is answered.
#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let (address, _status, _stop) = open(None).await;
    let start = std::time::Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    let dripping = tokio::spawn(async move {
        let mut answer = Vec::new();
        let head = b"GET /health/live HTTP/1.1\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in head {
            let pause = tokio::time::sleep(std::time::Duration::from_millis(100));
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::select! {
                () = pause => {}
                _ = slow.read_to_end(&mut answer) => break,
            }
        }
    });
    assert!(get(address, "/health/live", None).await.starts_with("HTTP/1.1 200"));
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await; // closed, or reset
    dripping.await.unwrap();
    let took = start.elapsed().as_secs();
    assert!((5..20).contains(&took), "cut off after {took} s");
}

/// More connections than there are places: those that ask nothing lose theirs, and the next one is answered.
#[tokio::test]
async fn idle_connections_do_not_shut_others_out() {
    let (address, _status, _stop) = open(None).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let limit = std::time::Duration::from_secs(25);
    let answer = tokio::time::timeout(limit, get(address, "/health/live", None)).await.expect("answered in time");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(idle);
}

/// A page in a browser may speak from this machine. It is refused by its origin, and by the name that it came under.
#[tokio::test]
async fn pages_from_elsewhere_are_refused() {
    let (address, _status, _stop) = open(None).await;
    let ask = async |host: &str, more: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let here = address.to_string();
    assert_eq!(ask(&here, "").await, "200");
    assert_eq!(ask(&here, &format!("Origin: http://{here}\r\n")).await, "200");
    assert_eq!(ask(&here, "Origin: http://evil.example\r\n").await, "403");
    assert_eq!(ask(&here, "Origin: null\r\n").await, "403");
    assert_eq!(ask("evil.example:8083", "").await, "421");
    // such a page may add any header, so one of those proves nothing
    assert_eq!(ask("evil.example:8083", "Authorization: Bearer x\r\n").await, "421");
}
