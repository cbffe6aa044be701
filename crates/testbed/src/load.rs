//! Writers that commit outbox rows at a given rate, through crashes of the server, and know afterwards what was committed.
//!
//! The truth is the table itself (rows are kept): a commit whose answer was lost is decided there. Each key belongs to one
//! writer, so that `seq` within a key rises in commit order.

use crate::postgres::Postgres;
use rand::Rng;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::Client;
use uuid::Uuid;

/// How much is written, and what.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Transactions a second, over all writers.
    pub per_second: u32,
    pub writers: u32,
    /// Keys of each writer.
    pub keys: u32,
    /// Values of `aggregatetype`, taken in turn at random.
    pub types: Vec<String>,
    /// Bytes of filling in each payload.
    pub filling: usize,
    /// One of so many transactions is rolled back; 0: none.
    pub rollback_one_in: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            per_second: 500,
            writers: 4,
            keys: 8,
            types: vec!["order".into()],
            filling: 100,
            rollback_one_in: 20,
        }
    }
}

/// A committed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub id: Uuid,
    pub key: String,
    pub kind: String,
    /// Rises within a key, in commit order.
    pub seq: i64,
}

/// Running writers.
#[derive(Debug)]
pub struct Load {
    url: String,
    stop: watch::Sender<bool>,
    counters: Arc<Counters>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    transactions: AtomicU64,
    rolled_back: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Creates the table `outbox` (the router's default columns) and the publication `outbox_pub` in a database.
    pub async fn prepare(postgres: &Postgres, database: &str) {
        let client = postgres.client(database).await;
        let statements = "create table outbox(id uuid primary key, aggregatetype text not null,
                aggregateid text not null, type text not null, payload jsonb not null);
             create publication outbox_pub for table outbox
                with (publish = 'insert', publish_via_partition_root = true);";
        client.batch_execute(statements).await.expect("a new database takes the outbox");
    }

    /// Starts the writers in a thread of their own. They connect again whenever the server went away.
    pub fn start(postgres: &Postgres, database: &str, options: LoadOptions) -> Load {
        let (stop, stopped) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let url = postgres.url(database);
        let (shared, target) = (counters.clone(), url.clone());
        let thread = std::thread::Builder::new().name("testbed-load".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async move {
                let mut writers = tokio::task::JoinSet::new();
                for number in 0..options.writers {
                    writers.spawn(writer(number, target.clone(), options.clone(), shared.clone(), stopped.clone()));
                }
                while let Some(ended) = writers.join_next().await {
                    ended.expect("a writer does not panic");
                }
            });
        });
        Load { url, stop, counters, thread: Some(thread.expect("a thread can be started")) }
    }

    /// Transactions whose commit was answered so far.
    pub fn transactions(&self) -> u64 {
        self.counters.transactions.load(Ordering::SeqCst)
    }

    /// Transactions rolled back on purpose, and those that failed with the server.
    pub fn without_effect(&self) -> (u64, u64) {
        (self.counters.rolled_back.load(Ordering::SeqCst), self.counters.failed.load(Ordering::SeqCst))
    }

    /// Stops the writers and reads from the table what was committed.
    pub async fn finish(mut self) -> Vec<Committed> {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            tokio::task::spawn_blocking(move || thread.join()).await.expect("not cancelled").expect("writers end well");
        }
        Load::committed(&self.url).await
    }

    /// What the table holds, in order of `seq`.
    pub async fn committed(url: &str) -> Vec<Committed> {
        let (client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("the server is back");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let query = "select id, aggregateid, aggregatetype, (payload->>'seq')::bigint from outbox order by 4, 2";
        let rows = client.query(query, &[]).await.expect("the outbox can be read");
        let row =
            |row: tokio_postgres::Row| Committed { id: row.get(0), key: row.get(1), kind: row.get(2), seq: row.get(3) };
        rows.into_iter().map(row).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn writer(
    number: u32,
    url: String,
    options: LoadOptions,
    counters: Arc<Counters>,
    mut stopped: watch::Receiver<bool>,
) {
    let pace = Duration::from_secs(1) * options.writers.max(1) / options.per_second.max(1);
    let mut ticks = tokio::time::interval(pace);
    let mut seqs = HashMap::new();
    let mut client: Option<Client> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        let current = match client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => match connect(&url).await {
                Some(client) => client,
                None => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    ticks.reset();
                    continue;
                }
            },
        };
        match transaction(&current, number, &options, &mut seqs).await {
            Ok(true) => counters.transactions.fetch_add(1, Ordering::SeqCst),
            Ok(false) => counters.rolled_back.fetch_add(1, Ordering::SeqCst),
            Err(_) => counters.failed.fetch_add(1, Ordering::SeqCst),
        };
        client = Some(current);
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.ok()?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Some(client)
}

/// One transaction of one to three rows; whether it was committed.
async fn transaction(
    client: &Client,
    writer: u32,
    options: &LoadOptions,
    seqs: &mut HashMap<u32, i64>,
) -> Result<bool, tokio_postgres::Error> {
    let (rows, roll_back, statement) = {
        let mut random = rand::rng();
        let rows = if random.random_range(0..10) == 0 { 3 } else { 1 };
        let roll_back = options.rollback_one_in > 0 && random.random_range(0..options.rollback_one_in) == 0;
        let values: Vec<String> = (0..rows)
            .map(|_| {
                let key = random.random_range(0..options.keys.max(1));
                // Numbers of what fails or is rolled back are simply missing.
                let seq = *seqs.entry(key).and_modify(|seq| *seq += 1).or_insert(0);
                let kind = options.types.get(random.random_range(0..options.types.len().max(1)));
                let kind = kind.map_or("order", String::as_str);
                let payload = format!(r#"{{"seq": {seq}, "filling": "{}"}}"#, "x".repeat(options.filling));
                format!("('{}', '{kind}', 'k{writer}-{key}', '{kind}.made', '{payload}')", Uuid::new_v4())
            })
            .collect();
        (rows, roll_back, format!("insert into outbox values {}", values.join(", ")))
    };
    if rows == 1 && !roll_back {
        client.batch_execute(&statement).await?;
        return Ok(true);
    }
    let end = if roll_back { "rollback" } else { "commit" };
    client.batch_execute(&format!("begin; {statement}; {end}")).await?;
    Ok(!roll_back)
}
