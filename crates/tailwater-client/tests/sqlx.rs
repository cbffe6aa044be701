//! `inbox::once_sqlx`: the same promises with sqlx.
#![allow(clippy::unwrap_used)] // a panic is a failed test, with its place

use sqlx::{PgPool, Postgres, Transaction};
use std::time::Duration;
use tailwater_client::inbox::{self, Error, Once, Retention};

async fn pool() -> PgPool {
    let pg = testbed::shared_postgres().await;
    let pool = PgPool::connect(&pg.url(&pg.database("sqlx").await)).await.unwrap();
    inbox::create_table(&mut *pool.acquire().await.unwrap()).await.unwrap();
    sqlx::query("CREATE TABLE effect (worker text NOT NULL)").execute(&pool).await.unwrap();
    pool
}

async fn work(tx: &mut Transaction<'_, Postgres>, worker: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query("INSERT INTO effect VALUES ($1)").bind(worker).execute(&mut **tx).await?.rows_affected())
}

/// Effects and markers.
async fn counts(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM inbox)").fetch_one(pool).await.unwrap()
}

/// T41, T45
#[tokio::test]
async fn marker_and_effect_commit_together_and_once() {
    let pool = pool().await;
    let mut tx = pool.begin().await.unwrap();
    inbox::once_sqlx(&mut tx, "orders", "17", async |tx| work(tx, "rolled back").await).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(counts(&pool).await, (0, 0));
    for (source, expected) in [("orders", Once::Done(1)), ("orders", Once::Known), ("invoices", Once::Done(1))] {
        let mut tx = pool.begin().await.unwrap();
        assert_eq!(inbox::once_sqlx(&mut tx, source, "17", async |tx| work(tx, "a").await).await.unwrap(), expected);
        tx.commit().await.unwrap();
    }
    assert_eq!(counts(&pool).await, (2, 2));
}

/// T41: also when the caller commits in spite of the error, or gives the handler up half-way.
#[tokio::test]
async fn a_failed_or_abandoned_handler_leaves_nothing() {
    let pool = pool().await;
    let mut tx = pool.begin().await.unwrap();
    let outcome = inbox::once_sqlx(&mut tx, "orders", "17", async |tx| {
        work(tx, "a").await?;
        sqlx::query("SELECT 1/0").execute(&mut **tx).await
    })
    .await;
    assert!(matches!(outcome, Err(Error::Handler(_))));
    let endless = inbox::once_sqlx(&mut tx, "orders", "18", async |tx| {
        work(tx, "b").await?;
        std::future::pending::<Result<(), sqlx::Error>>().await
    });
    assert!(tokio::time::timeout(Duration::from_millis(200), endless).await.is_err());
    work(&mut tx, "the caller's own").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(counts(&pool).await, (1, 0));
}

/// T42
#[tokio::test]
async fn many_deliveries_in_parallel_have_one_effect() {
    let pool = pool().await;
    let deliveries = (0..8).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut tx = pool.begin().await.unwrap();
            let outcome = inbox::once_sqlx(&mut tx, "orders", "17", async |tx| work(tx, "a").await).await.unwrap();
            tx.commit().await.unwrap();
            outcome
        })
    });
    let mut done = 0;
    for delivery in deliveries.collect::<Vec<_>>() {
        done += usize::from(delivery.await.unwrap() == Once::Done(1));
    }
    assert_eq!((done, counts(&pool).await), (1, (1, 1)));
}

/// T43
#[tokio::test]
async fn old_markers_are_forgotten() {
    let pool = pool().await;
    let insert = "INSERT INTO inbox VALUES ('a', 'old', now() - interval '9 days'), ('a', 'new', now())";
    sqlx::query(insert).execute(&pool).await.unwrap();
    let day = Duration::from_secs(24 * 3600);
    let mut connection = pool.acquire().await.unwrap();
    let forgotten = inbox::prune(&mut *connection, Retention::new(8 * day, 7 * day).unwrap()).await.unwrap();
    assert_eq!((forgotten, counts(&pool).await), (1, (0, 1)));
}
