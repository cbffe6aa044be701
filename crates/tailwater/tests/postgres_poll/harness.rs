//! A database with an outbox, and polling sources on it that are driven by hand.

/// What drives a source by hand is the same for the log.
#[allow(dead_code)] // its own kind of outbox
#[path = "../postgres_source/harness.rs"]
mod log;

pub use log::{Driven, PATIENCE, expected, text, values};
use std::sync::Arc;
use std::time::Duration;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sources::postgres::config::Connection;
use tailwater::sources::postgres_poll::PollSource;
use tailwater::sources::postgres_poll::config::PollConfig;
use tailwater_core::{Failure, OpenSource, Position};
use testbed::Postgres;
use tokio_postgres::Client;

/// A database, its outbox table, and the settings of a source on it.
pub struct Polled {
    pub database: String,
    pub sql: Client,
    pub config: PollConfig,
    /// How often everything is looked at again, if not every minute.
    pub afresh: Option<Duration>,
}

impl Polled {
    /// Table `outbox (seq identity, k text, v text)`, without a trigger; looked at every 50 ms.
    pub async fn new(pg: &Postgres) -> Polled {
        Polled::with(pg, "create table outbox (seq bigint generated always as identity primary key, k text, v text)")
            .await
    }

    pub async fn with(pg: &Postgres, table: &str) -> Polled {
        let database = pg.database("polled").await;
        let sql = pg.client(&database).await;
        sql.batch_execute(table).await.unwrap();
        let config = PollConfig {
            connection: Connection { url: Some(Secret::new(pg.url(&database))), ..Connection::default() },
            table: "outbox".into(),
            interval: Duration::from_millis(50),
            lease: Duration::from_secs(5),
            ..PollConfig::default()
        };
        Polled { database, sql, config, afresh: None }
    }

    /// Sources that are opened from now on reach the database through this.
    pub async fn behind_a_proxy(&mut self, pg: &Postgres) -> testbed::Proxy {
        let proxy = testbed::Proxy::to(([127, 0, 0, 1], pg.port()).into()).await;
        let url = format!("postgres://postgres@{}/{}?sslmode=disable", proxy.addr(), self.database);
        self.config.connection.url = Some(Secret::new(url));
        proxy
    }

    /// Rows `v<i>` of key `k<i mod 50>`.
    pub async fn insert(&self, values: std::ops::Range<u32>) {
        let sql = format!(
            "insert into outbox (k, v) select 'k' || i % 50, 'v' || i from generate_series({}, {}) i",
            values.start,
            values.end - 1
        );
        self.sql.batch_execute(&sql).await.unwrap();
    }

    /// Rows that are there and not marked.
    pub async fn waiting(&self) -> i64 {
        let condition = self.config.mark_column.as_ref().map_or("true".into(), |mark| format!("{mark} is null"));
        let sql = format!("select count(*) from outbox where {condition}");
        self.sql.query_one(&sql, &[]).await.unwrap().get(0)
    }

    pub async fn open(&self, from: Option<Position>) -> Driven {
        self.try_open(from).await.unwrap_or_else(|failure| panic!("open: {failure}"))
    }

    pub async fn try_open(&self, from: Option<Position>) -> Result<Driven, Failure> {
        let status = Arc::new(Status::new("test"));
        let mut source = PollSource::new(self.config.clone(), "k", status.clone());
        if let Some(afresh) = self.afresh {
            source = source.looking_afresh_every(afresh);
        }
        let (source, confirm) = source.open(from).await?;
        Ok(Driven { source, confirm, status, upto: None })
    }

    /// What is wrong: the failure of opening, as people read it.
    pub async fn refusal(&self) -> String {
        match self.try_open(None).await {
            Ok(_) => panic!("it opens"),
            Err(failure) => {
                assert!(failure.is_fatal(), "{failure}");
                failure.to_string()
            }
        }
    }

    /// Process ids of the sources' sessions.
    pub async fn sessions(&self) -> Vec<i32> {
        let sql = "select pid from pg_locks where locktype = 'advisory' and objid = 4294967295 and classid = 'outbox'::regclass";
        self.sql.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}
