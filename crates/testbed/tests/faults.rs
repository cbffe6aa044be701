//! The proxy passes everything until told otherwise; the load knows what was committed.

#![allow(clippy::unwrap_used)] // a panic is a failed test

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use testbed::{
    Child, Load, LoadOptions, Postgres, Proxy, Rabbit, StopMode, eventually, shared_postgres, shared_rabbitmq, unique,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    addr
}

async fn ping(stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
    stream.write_all(&vec![7; bytes]).await?;
    stream.read_exact(&mut vec![0; bytes]).await.map(drop)
}

#[tokio::test]
async fn a_cut_is_a_reset_and_new_connections_are_served() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ping(&mut stream, 100_000).await.unwrap();
    assert_eq!((proxy.bytes_up(), proxy.bytes_down(), proxy.connections()), (100_000, 100_000, 1));
    proxy.cut();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    ping(&mut TcpStream::connect(proxy.addr()).await.unwrap(), 10).await.unwrap();
}

#[tokio::test]
async fn a_cut_after_some_bytes_comes_in_the_middle_and_once() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.cut_after_up(150);
    ping(&mut stream, 100).await.unwrap();
    assert!(ping(&mut stream, 100).await.is_err());
    assert_eq!(proxy.bytes_up(), 150);
    ping(&mut TcpStream::connect(proxy.addr()).await.unwrap(), 1000).await.unwrap();
    proxy.cut_after(300);
    assert!(ping(&mut TcpStream::connect(proxy.addr()).await.unwrap(), 1000).await.is_err());
    ping(&mut TcpStream::connect(proxy.addr()).await.unwrap(), 1000).await.unwrap();
}

#[tokio::test]
async fn a_black_hole_keeps_the_connection_and_lets_go_later() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ping(&mut stream, 10).await.unwrap();
    proxy.blackhole();
    stream.write_all(b"0123456789").await.unwrap();
    let mut answer = [0; 10];
    assert!(tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut answer)).await.is_err());
    proxy.restore();
    stream.read_exact(&mut answer).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let start = std::time::Instant::now();
    ping(&mut stream, 10).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200));
    proxy.restore();
    proxy.throttle(10_000);
    let start = std::time::Instant::now();
    ping(&mut stream, 5_000).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_refusing_proxy_closes_its_port_and_opens_it_again() {
    let proxy = Proxy::to(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ping(&mut stream, 10).await.unwrap();
    proxy.refuse();
    assert!(ping(&mut stream, 10).await.is_err());
    assert_eq!(TcpStream::connect(proxy.addr()).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    proxy.restore();
    ping(&mut TcpStream::connect(proxy.addr()).await.unwrap(), 10).await.unwrap();
}

#[tokio::test]
async fn the_load_knows_what_was_committed_through_a_crash_of_the_server() {
    let pg = Postgres::start().await;
    let database = pg.database("load").await;
    Load::prepare(&pg, &database).await;
    let load = Load::start(&pg, &database, LoadOptions { rollback_one_in: 5, ..Default::default() });
    eventually(Duration::from_secs(10), || async { (load.transactions() > 200).then_some(()) }).await;
    pg.stop(StopMode::Immediate).await;
    pg.start_again().await;
    let before = load.transactions();
    eventually(Duration::from_secs(10), || async { (load.transactions() > before + 100).then_some(()) }).await;
    let (acknowledged, rolled_back) = (load.transactions(), load.without_effect().0);
    let committed = load.finish().await;
    assert!(committed.len() as u64 >= acknowledged, "{} < {acknowledged}", committed.len());
    assert!(rolled_back > 0);
    let key: Vec<i64> = committed.iter().filter(|row| row.key == "k0-0").map(|row| row.seq).collect();
    assert!(key.is_sorted() && key.len() > 3);
}

#[tokio::test]
async fn a_queue_is_drained_in_order() {
    let node = shared_rabbitmq().await;
    let (exchange, queue) = (unique("ex"), unique("q"));
    let rabbit = Rabbit::connect(node).await;
    rabbit.exchange(&exchange).await;
    rabbit.queue(&queue, &exchange, &["a.*"]).await;
    for n in 0..1200 {
        let body = n.to_string();
        let publish = rabbit.channel().basic_publish(
            exchange.as_str().into(),
            "a.b".into(),
            Default::default(),
            body.as_bytes(),
            Default::default(),
        );
        drop(publish.await.unwrap());
    }
    let first = rabbit.take(&queue, 700, Duration::from_secs(10)).await;
    let rest = rabbit.drain(&queue).await;
    let bodies: Vec<String> = first.iter().chain(&rest).map(|m| String::from_utf8(m.body.clone()).unwrap()).collect();
    assert_eq!(bodies, (0..1200).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(rabbit.count(&queue).await, 0);
    rabbit.delete_queue(&queue).await;
    assert!(!shared_postgres().await.socket_dir().as_os_str().is_empty());
}

#[tokio::test]
async fn a_child_is_heard_and_ended() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo ready >&2; trap 'exit 7' TERM; while true; do sleep 0.05; done"]);
    let child = Child::start(command);
    assert_eq!(child.wait_for("ready", Duration::from_secs(5)).await, "ready");
    child.term();
    assert_eq!(child.wait(Duration::from_secs(5)).await.code(), Some(7));
}
