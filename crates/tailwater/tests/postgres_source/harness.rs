//! A database with an outbox, and a source on it that is driven by hand.

use std::sync::Arc;
use std::time::Duration;
use tailwater::config::secret::Secret;
use tailwater::metrics::Status;
use tailwater::sources::postgres::PostgresSource;
use tailwater::sources::postgres::config::{Connection, PostgresConfig};
use tailwater_core::{Batch, Change, Confirm, Event, Failure, OpenSource, Position, Source, Value};
use testbed::{Postgres, unique};
use tokio_postgres::Client;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ROOM: usize = 64 << 20;

/// A database, its outbox table and publication, and the settings of a source on it.
pub struct Outbox {
    pub database: String,
    pub sql: Client,
    pub config: PostgresConfig,
    server_url: String,
}

impl Outbox {
    /// Table `outbox (id bigserial, v text)` in publication `pub`; no slot.
    pub async fn new(pg: &Postgres) -> Outbox {
        let database = pg.database("source").await;
        let sql = pg.client(&database).await;
        sql.batch_execute(
            "create table outbox (id bigserial primary key, v text); create table other (v text); \
             create publication pub for table outbox with (publish = 'insert')",
        )
        .await
        .unwrap();
        let config = PostgresConfig {
            connection: Connection { url: Some(Secret::new(pg.url(&database))), ..Connection::default() },
            slot: unique("slot"),
            publication: "pub".into(),
            table: "outbox".into(),
            ..PostgresConfig::default()
        };
        let server_url = pg.url("postgres");
        Outbox { database, sql, config, server_url }
    }

    /// As [`Outbox::new`], with the slot.
    pub async fn with_slot(pg: &Postgres) -> Outbox {
        let outbox = Outbox::new(pg).await;
        outbox.create_slot().await;
        outbox
    }

    pub async fn create_slot(&self) {
        let sql = format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", self.config.slot);
        self.sql.batch_execute(&sql).await.unwrap();
    }

    pub async fn insert(&self, values: std::ops::Range<u32>) {
        let sql = format!(
            "insert into outbox (v) select 'v' || i from generate_series({}, {}) i",
            values.start,
            values.end - 1
        );
        self.sql.batch_execute(&sql).await.unwrap();
    }

    pub async fn confirmed(&self) -> u64 {
        let sql = format!(
            "select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots where slot_name = '{}'",
            self.config.slot
        );
        self.sql.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) as u64
    }

    pub async fn wal_end(&self) -> u64 {
        self.sql.query_one("select (pg_current_wal_flush_lsn() - '0/0')::int8", &[]).await.unwrap().get::<_, i64>(0)
            as u64
    }

    pub async fn open(&self, from: Option<Position>) -> Driven {
        self.try_open(from).await.unwrap_or_else(|failure| panic!("open: {failure}"))
    }

    pub async fn try_open(&self, from: Option<Position>) -> Result<Driven, Failure> {
        let status = Arc::new(Status::new("test"));
        self.open_as(from, status).await
    }

    pub async fn open_as(&self, from: Option<Position>, status: Arc<Status>) -> Result<Driven, Failure> {
        let (source, confirm) = PostgresSource::new(self.config.clone(), status.clone()).open(from).await?;
        Ok(Driven { source, confirm, status, upto: None })
    }
}

impl Drop for Outbox {
    /// A slot left behind on a shared server would hold its WAL for the rest of the run.
    fn drop(&mut self) {
        let (url, slot) = (self.server_url.clone(), self.config.slot.clone());
        let clean = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(3), remove_slot(&url, &slot)).await })
        });
        drop(clean.join());
    }
}

async fn remove_slot(url: &str, slot: &str) {
    // A server of the test's own may be gone already.
    let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await else { return };
    tokio::spawn(connection);
    let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1";
    while client.query(sql, &[&slot]).await.is_ok_and(|rows| !rows.is_empty()) {
        if client.query("select pg_drop_replication_slot($1)", &[&slot]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An open source and what it last said.
pub struct Driven {
    pub source: Box<dyn Source>,
    pub confirm: Arc<dyn Confirm>,
    pub status: Arc<Status>,
    pub upto: Option<Position>,
}

impl Driven {
    pub async fn next(&mut self) -> Result<Batch, Failure> {
        self.next_in(ROOM).await
    }

    pub async fn next_in(&mut self, room: usize) -> Result<Batch, Failure> {
        let batch = tokio::time::timeout(PATIENCE, self.source.next(room)).await.expect("nothing came in time")?;
        self.upto = Some(batch.upto.clone());
        Ok(batch)
    }

    /// Reads until `count` changes have come, and their transaction has ended.
    pub async fn take(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < count || self.inside() {
            changes.extend(self.next().await.unwrap_or_else(|failure| panic!("next: {failure}")).changes);
        }
        changes
    }

    /// Whether the last position lies inside a transaction.
    pub fn inside(&self) -> bool {
        self.upto.as_ref().is_some_and(|upto| upto.as_str().contains("ord="))
    }

    /// Confirms everything that was read.
    pub async fn confirm_all(&self) {
        if let Some(upto) = &self.upto {
            self.confirm.confirm(upto).await.unwrap();
        }
    }

    /// Reads on (so that keepalives are seen) until the source fails, and returns how.
    pub async fn failure(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.next().await {
                return failure;
            }
        }
    }
}

/// The text of column `name` of a row.
pub fn text(change: &Change, name: &str) -> Option<String> {
    let Event::Row(row) = &change.event else { panic!("not a row: {:?}", change.event) };
    let index = row.relation.column(name).unwrap_or_else(|| panic!("no column {name}"));
    match &row.new.as_ref().expect("a new row").0[index] {
        Value::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        Value::Null => None,
        other => panic!("{other:?}"),
    }
}

/// Column `v` of all rows.
pub fn values(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| text(change, "v").unwrap_or_default()).collect()
}

pub fn expected(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("v{i}")).collect()
}
