//! The pool of database connections and the tables. No business rule.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::NoTls;

/// Name under which the inbox knows the worker's queue: the `source` of its markers, for every worker of this queue.
pub const INBOX_SOURCE: &str = "report-service";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the database URL; expected postgres://user:password@host:5432/database")]
    Url(#[source] tokio_postgres::Error),
    #[error("make the connection pool")]
    Build(#[from] deadpool_postgres::BuildError),
    #[error("connect to the database")]
    Connect(#[from] deadpool_postgres::PoolError),
    #[error("query the database")]
    Query(#[from] tokio_postgres::Error),
}

/// A pool for `url`; nothing is connected yet.
pub fn pool(url: &str) -> Result<Pool, Error> {
    let mut config: tokio_postgres::Config = url.parse().map_err(Error::Url)?;
    config.application_name("reports");
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Ok(Pool::builder(Manager::from_config(config, NoTls, recycling)).max_size(8).build()?)
}

/// Creates the tables that are missing, and `sample_users` accounts with some activity to report about.
pub async fn migrate(pool: &Pool, sample_users: i64) -> Result<(), Error> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    // One migration at a time: IF NOT EXISTS is no protection against a parallel CREATE.
    tx.execute("SELECT pg_advisory_xact_lock(hashtext('reports migrate'))", &[]).await?;
    tx.batch_execute(include_str!("schema.sql")).await?;
    tx.execute(
        "INSERT INTO account SELECT n, 'user' || n || '@example.com' FROM generate_series(1, $1::bigint) n \
         ON CONFLICT DO NOTHING",
        &[&sample_users],
    )
    .await?;
    tx.execute(
        "INSERT INTO activity SELECT user_id, timestamptz '2026-01-01 08:00Z' + k * interval '26 hours', \
                (ARRAY['signed in', 'uploaded', 'shared', 'signed out'])[1 + k % 4], 'item ' || user_id || ', no. ' || k \
         FROM account, generate_series(0, 23) k \
         WHERE user_id <= $1 AND NOT EXISTS (SELECT FROM activity a WHERE a.user_id = account.user_id)",
        &[&sample_users],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}
