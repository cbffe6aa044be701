//! Waiting for what an event is about: a primary whose commits hang in synchronous replication, and a replica that lags.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};
use tailwater_client::{WaitError, current_lsn, wait_for_lsn, wait_until_visible};
use testbed::{Child, Postgres, StopMode, WorkDir, eventually};
use tokio_postgres::{Client, NoTls};

const BRIEFLY: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(20);

/// Inserts a row and gives the transaction's number, then commits.
async fn insert(client: &mut Client) -> u64 {
    let tx = client.transaction().await.unwrap();
    tx.execute("INSERT INTO thing DEFAULT VALUES", &[]).await.unwrap();
    let xid: String = tx.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    tx.commit().await.unwrap();
    xid.parse().unwrap()
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM thing", &[]).await.unwrap().get(0)
}

type Commit = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// Inserts a row and commits: the transaction's number and its commit, if it hangs in synchronous replication; `None` if it
/// went through.
async fn hanging_commit(pg: &Postgres, reader: &Client) -> Option<(u64, Commit)> {
    let mut writer = pg.client("postgres").await;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (said, xid) = tokio::sync::oneshot::channel();
    let commit = tokio::spawn(async move {
        let tx = writer.transaction().await.unwrap();
        tx.execute("INSERT INTO thing DEFAULT VALUES", &[]).await.unwrap();
        let xid: String = tx.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
        said.send(xid.parse::<u64>().unwrap()).unwrap();
        tx.commit().await
    });
    let xid = xid.await.unwrap();
    let hangs = eventually(LONG, || async {
        if commit.is_finished() {
            return Some(false);
        }
        let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
        reader.query_opt(sql, &[&pid]).await.unwrap().map(|_| true)
    })
    .await;
    if !hangs {
        commit.await.unwrap().unwrap();
        return None;
    }
    Some((xid, commit))
}

/// T46: decoding already shows the commit, other sessions do not.
#[tokio::test]
async fn a_commit_that_waits_for_its_standby_is_waited_for() {
    let pg = Postgres::start().await;
    let mut reader = pg.client("postgres").await;
    reader.batch_execute("CREATE TABLE thing (id serial)").await.unwrap();
    reader.batch_execute("SELECT pg_create_logical_replication_slot('s', 'test_decoding')").await.unwrap();
    reader.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    reader.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // the reload reaches the process that makes commits wait in its own time: those before it do not
    let mut before = 0;
    let (xid, commit) = loop {
        match hanging_commit(&pg, &reader).await {
            Some(hanging) => break hanging,
            None => before += 1,
        }
    };
    let decoded = "SELECT count(*) FROM pg_logical_slot_peek_changes('s', NULL, NULL) WHERE data LIKE 'COMMIT%'";
    let decoded: i64 = reader.query_one(decoded, &[]).await.unwrap().get(0);
    assert_eq!((decoded, count(&reader).await), (before + 1, before), "decoded, and not visible");
    let start = Instant::now();
    let outcome = wait_until_visible(&mut reader, xid, BRIEFLY).await;
    assert!(matches!(outcome, Err(WaitError::NotYet(BRIEFLY))), "{outcome:?}");
    assert!((BRIEFLY..BRIEFLY + Duration::from_secs(5)).contains(&start.elapsed()), "the delay is bounded");

    let mut other = pg.client("postgres").await;
    let waiting = tokio::spawn(async move {
        wait_until_visible(&mut other, xid, LONG).await.unwrap();
        count(&other).await
    });
    reader.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    reader.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    assert_eq!(waiting.await.unwrap(), before + 1, "visible means visible");
    commit.await.unwrap().unwrap();
    // Bounded for a transaction that rolled back, too: there is nothing to wait for.
    wait_until_visible(&mut reader, 3, BRIEFLY).await.unwrap();
    tailwater_client::inbox::create_table(&mut reader).await.unwrap();
    let (mut handling, mut guard) = (Duration::ZERO, Duration::ZERO);
    for number in 0..300 {
        let start = Instant::now();
        wait_until_visible(&mut reader, xid, BRIEFLY).await.unwrap();
        guard += start.elapsed();
        let start = Instant::now();
        let mut tx = reader.transaction().await.unwrap();
        let effect =
            async |tx: &mut tokio_postgres::Transaction<'_>| tx.execute("INSERT INTO thing DEFAULT VALUES", &[]).await;
        tailwater_client::inbox::once(&mut tx, "cost", &number.to_string(), effect).await.unwrap();
        tx.commit().await.unwrap();
        handling += start.elapsed();
    }
    println!("handling an event takes {:?}, a guard that need not wait {:?} more", handling / 300, guard / 300);
}

/// A physical standby of `primary`, and a connection to it.
async fn replica(primary: &Postgres, dir: &WorkDir) -> (Child, Client) {
    let owner = std::fs::metadata(primary.data_dir()).unwrap();
    let (uid, gid) = (owner.uid(), owner.gid());
    let data = dir.subdir("replica", Some((uid, gid))).join("data");
    let port = testbed::free_port().to_string();
    // A copy of the stopped server is a base backup too, and needs no pg_basebackup of the server's version.
    primary.stop(StopMode::Fast).await;
    let copied = Command::new("cp").arg("-a").arg(primary.data_dir()).arg(&data).status().unwrap();
    assert!(copied.success());
    primary.start_again().await;
    std::fs::write(data.join("standby.signal"), "").unwrap();
    let upstream = format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", primary.port());
    let mut settings = std::fs::File::options().append(true).open(data.join("testbed.conf")).unwrap();
    settings.write_all(upstream.as_bytes()).unwrap();
    let mut server = Command::new(testbed::postgres_program("postgres"));
    server.arg("-D").arg(&data).args(["-c", &format!("port={port}"), "-c"]);
    server.arg(format!("unix_socket_directories={}", data.display())).current_dir("/").uid(uid).gid(gid);
    let server = Child::start(server);
    let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let client = eventually(LONG, || async {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    })
    .await;
    (server, client)
}

/// T47
#[tokio::test]
async fn a_replica_that_lags_is_waited_for_by_position_and_by_transaction() {
    let primary = Postgres::start().await;
    let dir = WorkDir::new();
    primary.client("postgres").await.batch_execute("CREATE TABLE thing (id serial)").await.unwrap();
    let (server, mut reader) = replica(&primary, &dir).await;
    let mut writer = primary.client("postgres").await;
    reader.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    eventually(LONG, || async {
        let row = reader.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).await.unwrap();
        (row.get::<_, &str>(0) == "paused").then_some(())
    })
    .await;
    let xid = insert(&mut writer).await;
    let lsn = current_lsn(&mut writer).await.unwrap();
    wait_for_lsn(&mut writer, &lsn, BRIEFLY).await.unwrap();
    wait_until_visible(&mut writer, xid, BRIEFLY).await.unwrap();
    assert_eq!(count(&reader).await, 0);
    assert!(matches!(wait_for_lsn(&mut reader, &lsn, BRIEFLY).await, Err(WaitError::NotYet(_))));
    assert!(matches!(wait_until_visible(&mut reader, xid, BRIEFLY).await, Err(WaitError::NotYet(_))));
    reader.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    wait_until_visible(&mut reader, xid, LONG).await.unwrap();
    assert_eq!(count(&reader).await, 1);

    insert(&mut writer).await;
    let lsn = current_lsn(&mut writer).await.unwrap();
    writer.batch_execute("SELECT pg_switch_wal()").await.unwrap(); // so that the log moves past the position
    wait_for_lsn(&mut reader, &lsn, LONG).await.unwrap();
    assert_eq!(count(&reader).await, 2);
    assert!(matches!(wait_for_lsn(&mut reader, "here", LONG).await, Err(WaitError::Lsn(_))));

    // One that is still open while a later one is to be seen: a replica's snapshots do not list it.
    let mut other = primary.client("postgres").await;
    let open = other.transaction().await.unwrap();
    open.execute("INSERT INTO thing DEFAULT VALUES", &[]).await.unwrap();
    let xid: String = open.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    let xid = xid.parse().unwrap();
    let later = insert(&mut writer).await;
    wait_until_visible(&mut reader, later, LONG).await.unwrap();
    assert!(matches!(wait_until_visible(&mut reader, xid, BRIEFLY).await, Err(WaitError::NotYet(_))));
    open.commit().await.unwrap();
    wait_until_visible(&mut reader, xid, LONG).await.unwrap();
    assert_eq!(count(&reader).await, 4);
    drop(server);
}
