//! A mail is sent from its row, once as far as a mail can.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

mod common;

use common::*;
use deadpool_postgres::Pool;
use reports::mail::{Outlet, send_next};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

async fn mails(pool: &Pool, keys: &[&str]) {
    let client = pool.get().await.unwrap();
    for key in keys {
        let sql = "INSERT INTO mail (key, recipient, subject, body, file_name, attachment) \
                   VALUES ($1, 'user1@example.com', 'Your activity export', 'Hello', 'a.csv', 'a,b')";
        client.execute(sql, &[key]).await.unwrap();
    }
}

fn folder(hint: &str) -> (std::path::PathBuf, Outlet) {
    let path = std::env::temp_dir().join(testbed::unique(hint));
    let outlet = Outlet::parse(&format!("folder:{}", path.display())).unwrap();
    (path, outlet)
}

fn files(path: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn each_row_becomes_one_file_with_its_key_as_message_id() {
    let (_, pool) = database().await;
    let (path, outlet) = folder("mails");
    mails(&pool, &["key-1", "a/b\r\nBcc: x"]).await;
    while send_next(&pool, &outlet).await.unwrap() {}
    assert_eq!(files(&path), ["a=2Fb=0D=0ABcc=3A=20x.eml", "key-1.eml"]);
    let mail = std::fs::read_to_string(path.join("key-1.eml")).unwrap();
    assert!(mail.contains("Message-ID: <key-1@reports.example>\r\n"), "{mail}");
    assert!(mail.contains("To: user1@example.com\r\n") && mail.contains("filename=\"a.csv\""), "{mail}");
    assert_eq!(count(&pool, "mail WHERE sent_at IS NOT NULL AND attempts = 1").await, 2);
    std::fs::remove_dir_all(path).unwrap();
}

/// A crash after the mail has left and before its row says so: it is sent again, over the same file.
#[tokio::test]
async fn a_mail_sent_again_after_a_crash_is_the_same_mail() {
    let (_, pool) = database().await;
    let (path, outlet) = folder("mails");
    mails(&pool, &["key-1"]).await;
    for _ in 0..2 {
        assert!(send_next(&pool, &outlet).await.unwrap());
        pool.get().await.unwrap().execute("UPDATE mail SET sent_at = NULL", &[]).await.unwrap(); // as rolled back
    }
    assert_eq!(files(&path), ["key-1.eml"]);
    std::fs::remove_dir_all(path).unwrap();
}

#[tokio::test]
async fn several_mailers_share_the_rows_and_send_each_once() {
    let (_, pool) = database().await;
    let keys: Vec<_> = (0..30).map(|n| format!("key-{n}")).collect();
    mails(&pool, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (outlet, received) = smtp().await;
    let mailers: Vec<_> = (0..4)
        .map(|_| {
            let (pool, outlet) = (pool.clone(), outlet.clone());
            tokio::spawn(async move { while send_next(&pool, &outlet).await.unwrap() {} })
        })
        .collect();
    for mailer in mailers {
        mailer.await.unwrap();
    }
    let mut ids = received.lock().unwrap().clone();
    ids.sort();
    let mut expected: Vec<_> = keys.iter().map(|key| format!("Message-ID: <{key}@reports.example>")).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn a_mail_that_cannot_leave_waits_and_says_why() {
    let (_, pool) = database().await;
    mails(&pool, &["key-1"]).await;
    let nobody = Outlet::parse("smtp://127.0.0.1:1").unwrap();
    assert!(send_next(&pool, &nobody).await.unwrap());
    assert!(!send_next(&pool, &nobody).await.unwrap(), "not due before its pause is over");
    let waiting = "mail WHERE sent_at IS NULL AND attempts = 1 AND last_error IS NOT NULL AND next_attempt > now()";
    assert_eq!(count(&pool, waiting).await, 1);
}

/// A server that takes every mail and keeps its Message-ID line (RFC 5321, as much as one sender needs).
async fn smtp() -> (Outlet, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outlet = Outlet::parse(&format!("smtp://{}", listener.local_addr().unwrap())).unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    let ids = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ids = ids.clone();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                let _ = write.write_all(b"220 ready\r\n").await;
                let mut in_data = false;
                while let Ok(Some(line)) = lines.next_line().await {
                    let answer = match line.as_str() {
                        "." => "250 taken\r\n",
                        _ if in_data => {
                            if line.starts_with("Message-ID:") {
                                ids.lock().unwrap().push(line);
                            }
                            continue;
                        }
                        "DATA" => "354 go on\r\n",
                        _ => "250 ok\r\n",
                    };
                    in_data = answer.starts_with("354");
                    if write.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (outlet, received)
}
