//! What `inbox::once` promises, on a real PostgreSQL.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use std::time::Duration;
use tailwater_client::inbox::{self, Error, Inbox, Once, Retention};
use tailwater_client::outbox::{Event, Outbox};
use tokio_postgres::{Client, Transaction};

/// A database of its own with an inbox and a table of effects.
async fn database() -> String {
    let pg = testbed::shared_postgres().await;
    let name = pg.database("inbox").await;
    let mut client = pg.client(&name).await;
    inbox::create_table(&mut client).await.unwrap();
    inbox::create_table(&mut client).await.unwrap(); // a second time is harmless
    client.batch_execute("CREATE TABLE effect (worker text NOT NULL)").await.unwrap();
    name
}

async fn connect(database: &str) -> Client {
    testbed::shared_postgres().await.client(database).await
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

async fn work(tx: &mut Transaction<'_>, worker: &str) -> Result<u64, tokio_postgres::Error> {
    tx.execute("INSERT INTO effect VALUES ($1)", &[&worker]).await
}

/// Until the backend `pid` waits for another transaction.
async fn until_blocked(observer: &Client, pid: i32) {
    testbed::eventually(Duration::from_secs(10), || async {
        let row = observer.query_one("SELECT cardinality(pg_blocking_pids($1)) > 0", &[&pid]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_known_event_is_skipped() {
    let mut client = connect(&database().await).await;
    for expected in [Once::Done(1), Once::Known, Once::Known] {
        let mut tx = client.transaction().await.unwrap();
        let outcome = inbox::once(&mut tx, "orders", "17", async |tx| work(tx, "a").await).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(outcome, expected);
    }
    assert_eq!(count(&client, "effect").await, 1);
}

/// T45
#[tokio::test]
async fn the_same_id_of_another_source_is_another_event() {
    let mut client = connect(&database().await).await;
    for source in ["orders", "invoices"] {
        let mut tx = client.transaction().await.unwrap();
        let outcome = inbox::once(&mut tx, source, "17", async |tx| work(tx, source).await).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(outcome, Once::Done(1));
    }
    assert_eq!(count(&client, "effect").await, 2);
}

/// T41: marker and effect share the caller's transaction, whichever way it ends.
#[tokio::test]
async fn a_rolled_back_transaction_leaves_neither_marker_nor_effect() {
    let mut client = connect(&database().await).await;
    let mut tx = client.transaction().await.unwrap();
    inbox::once(&mut tx, "orders", "17", async |tx| work(tx, "a").await).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!((count(&client, "effect").await, count(&client, "inbox").await), (0, 0));
}

/// T41: a caller that commits in spite of the error loses the effect and the marker together, so that a later delivery works.
#[tokio::test]
async fn a_failed_handler_leaves_no_marker_even_if_the_caller_commits() {
    let mut client = connect(&database().await).await;
    let mut tx = client.transaction().await.unwrap();
    let outcome = inbox::once(&mut tx, "orders", "17", async |tx| {
        work(tx, "a").await.unwrap();
        tx.execute("SELECT 1/0", &[]).await // aborts the transaction as far as the savepoint
    })
    .await;
    assert!(matches!(outcome, Err(Error::Handler(_))));
    work(&mut tx, "the caller's own").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((count(&client, "effect").await, count(&client, "inbox").await), (1, 0));
}

/// T41
#[tokio::test]
async fn a_handler_abandoned_in_the_middle_leaves_nothing() {
    let mut client = connect(&database().await).await;
    let mut tx = client.transaction().await.unwrap();
    let abandoned = tokio::time::timeout(
        Duration::from_millis(200),
        inbox::once(&mut tx, "orders", "17", async |tx| {
            work(tx, "a").await?;
            std::future::pending::<Result<(), tokio_postgres::Error>>().await
        }),
    )
    .await;
    assert!(abandoned.is_err());
    tx.commit().await.unwrap();
    assert_eq!((count(&client, "effect").await, count(&client, "inbox").await), (0, 0));
}

/// T42: the loser does not answer before the winner has committed, and then skips.
#[tokio::test]
async fn of_two_deliveries_in_parallel_the_second_waits_for_the_commit_and_skips() {
    let database = database().await;
    let (mut first, mut second) = (connect(&database).await, connect(&database).await);
    let observer = connect(&database).await;
    let second_pid = pid(&second).await;

    let mut winner = first.transaction().await.unwrap();
    inbox::once(&mut winner, "orders", "17", async |tx| work(tx, "first").await).await.unwrap();
    let loser = tokio::spawn(async move {
        let mut tx = second.transaction().await.unwrap();
        let outcome = inbox::once(&mut tx, "orders", "17", async |tx| work(tx, "second").await).await.unwrap();
        tx.commit().await.unwrap();
        outcome
    });
    until_blocked(&observer, second_pid).await;
    assert!(!loser.is_finished(), "the loser answered before the winner's commit");
    winner.commit().await.unwrap();
    assert_eq!(loser.await.unwrap(), Once::Known);
    assert_eq!(count(&observer, "effect").await, 1);
}

/// T42: after the winner's rollback the event is not lost: the one that waited runs.
#[tokio::test]
async fn of_two_deliveries_in_parallel_the_second_runs_if_the_first_rolls_back() {
    let database = database().await;
    let (mut first, mut second) = (connect(&database).await, connect(&database).await);
    let observer = connect(&database).await;
    let second_pid = pid(&second).await;

    let mut winner = first.transaction().await.unwrap();
    inbox::once(&mut winner, "orders", "17", async |tx| work(tx, "first").await).await.unwrap();
    let waiting = tokio::spawn(async move {
        let mut tx = second.transaction().await.unwrap();
        let outcome = inbox::once(&mut tx, "orders", "17", async |tx| work(tx, "second").await).await.unwrap();
        tx.commit().await.unwrap();
        outcome
    });
    until_blocked(&observer, second_pid).await;
    winner.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap(), Once::Done(1));
    let worker: String = observer.query_one("SELECT worker FROM effect", &[]).await.unwrap().get(0);
    assert_eq!(worker, "second");
}

/// T42
#[tokio::test]
async fn many_deliveries_in_parallel_have_one_effect() {
    let database = database().await;
    let mut tasks = Vec::new();
    for _ in 0..12 {
        let mut client = connect(&database).await;
        tasks.push(tokio::spawn(async move {
            let mut tx = client.transaction().await.unwrap();
            let outcome = inbox::once(&mut tx, "orders", "17", async |tx| work(tx, "a").await).await.unwrap();
            tx.commit().await.unwrap();
            outcome
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += usize::from(task.await.unwrap() == Once::Done(1));
    }
    assert_eq!(done, 1);
    assert_eq!(count(&connect(&database).await, "effect").await, 1);
}

async fn strictly(client: &mut Client) -> Transaction<'_> {
    client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await.unwrap()
}

/// T42 with `REPEATABLE READ`: the loser cannot see the winner's marker, and is told so (40001) instead of running.
#[tokio::test]
async fn under_repeatable_read_the_second_of_two_fails_and_may_come_again() {
    let database = database().await;
    let (mut first, mut second) = (connect(&database).await, connect(&database).await);
    let mut loser = strictly(&mut second).await;
    loser.execute("SELECT 1", &[]).await.unwrap(); // its snapshot is taken here
    let mut winner = strictly(&mut first).await;
    inbox::once(&mut winner, "orders", "17", async |tx| work(tx, "first").await).await.unwrap();
    winner.commit().await.unwrap();
    let outcome = inbox::once(&mut loser, "orders", "17", async |tx| work(tx, "second").await).await;
    assert!(matches!(&outcome, Err(Error::Database(error)) if error.code().as_deref() == Some("40001")), "{outcome:?}");
    drop(loser);
    let mut again = second.transaction().await.unwrap();
    let outcome = inbox::once(&mut again, "orders", "17", async |tx| work(tx, "second").await).await.unwrap();
    assert_eq!(outcome, Once::Known);
}

/// T44: what the handler published goes out although the message itself is delivered again, or ends among the dead letters.
#[tokio::test]
async fn follow_ups_belong_to_the_effect_and_not_to_the_acknowledgement() {
    let mut client = connect(&database().await).await;
    client.batch_execute("CREATE TABLE outbox (id text PRIMARY KEY, type text, payload jsonb)").await.unwrap();
    for delivery in 1..=3 {
        let mut tx = client.transaction().await.unwrap();
        let outcome = inbox::once(&mut tx, "orders", "17", async |tx| {
            Outbox::default()
                .publish(tx, &Event::new("stock.reserved", serde_json::json!({ "delivery": delivery })))
                .await?;
            if delivery == 1 { Err("fails after publishing".into()) } else { Ok::<_, Box<dyn std::error::Error>>(()) }
        })
        .await;
        tx.commit().await.unwrap(); // and the acknowledgement is lost each time
        assert_eq!(outcome.is_err(), delivery == 1);
    }
    let rows = client.query("SELECT payload->>'delivery' FROM outbox", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["2"]);
}

/// T43: a retention that is not longer than the longest redelivery cannot be expressed.
#[tokio::test]
async fn markers_are_forgotten_after_the_longest_redelivery_and_not_before() {
    let mut client = connect(&database().await).await;
    client.batch_execute("CREATE SCHEMA app").await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(Retention::new(2 * hour, 3 * hour).is_err());
    assert!(Retention::new(2 * hour, 2 * hour).is_err());
    let retention = Retention::new(2 * hour, hour).unwrap();
    let seen = Inbox::new("app.Seen").unwrap();
    seen.create_table(&mut client).await.unwrap();
    let mut tx = client.transaction().await.unwrap();
    seen.once(&mut tx, "orders", "17", async |tx| work(tx, "a").await).await.unwrap();
    tx.commit().await.unwrap();
    let old = r#"INSERT INTO app."Seen" SELECT 'orders', 'old ' || n, now() - n * interval '1 minute' FROM generate_series(1, 12345) n"#;
    client.batch_execute(old).await.unwrap();
    let forgotten = seen.prune(&mut client, retention).await.unwrap();
    assert!((12345 - 120..=12345 - 119).contains(&forgotten), "{forgotten}");
    assert_eq!(seen.prune(&mut client, retention).await.unwrap(), 0);
    let oldest = r#"SELECT max(now() - handled_at) < interval '121 minutes' FROM app."Seen""#;
    assert!(client.query_one(oldest, &[]).await.unwrap().get::<_, bool>(0));
}
