//! PostgreSQL by polling its outbox table, for databases whose log cannot be read.
//!
//! ```text
//!   session ─▶ table (checks) ─▶ shares (who polls which keys) ─▶ reader: fetch ─▶ changes
//!                                horizon (how far the past is closed) ──┘        flight ◀─ confirm ─▶ DELETE or UPDATE
//! ```
//!
//! - **A row is undelivered while it is there** (or unmarked): there is no position that could pass a row by. A late commit
//!   with a low order value is found by the next look, a rolled back one is never waited for (T1).
//! - **One session is the right to rows.** Each share of the keys is an advisory lock of the owner's session; fetching and
//!   deleting happen on that very session. Whoever loses it can do neither (T7); whoever is dead is ended by another
//!   relay (`shares.rs`). Not through a pooler that gives a session to many (PgBouncer's transaction mode).
//! - **Order** is per key: rows of a key belong to one share, a share to one relay, and come by the order column among
//!   those that are visible. A transaction that drew a lower value and commits later comes later (T4): as with the log, it
//!   is commit order that counts, not insert order.
//! - **Cost** stays flat: looks begin at a floor that follows the traffic (`horizon.rs`), on an index.
//!
//! Not here: what a row means (route), what happens to refused ones (lanes).

pub mod config;
mod flight;
mod horizon;
mod reader;
mod session;
mod shares;
mod table;

use crate::metrics::{State, Status};
use crate::sources::postgres::failure::{Error, Names, classify};
use crate::sources::postgres::target::Target;
use async_trait::async_trait;
use config::PollConfig;
use flight::{Flight, Flying};
use horizon::Horizon;
use session::Session;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use table::Table;
use tailwater_core::{Confirm, Failure, OpenSource, Position, Source};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the open transactions are looked at while the past is not closed.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Rows deleted or marked by one statement.
const DONE_ROWS: usize = 10_000;
/// How long a confirmation of the very last rows waits for the database.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// An outbox table, to be opened as often as needed.
pub struct PollSource {
    config: PollConfig,
    /// The router's key column: rows of one key have one owner.
    key_column: String,
    status: Arc<Status>,
}

impl PollSource {
    /// Connects to nothing yet.
    pub fn new(config: PollConfig, key_column: &str, status: Arc<Status>) -> PollSource {
        PollSource { config, key_column: key_column.to_owned(), status }
    }

    async fn begin(&self, from: Option<&Position>) -> Result<Arc<Core>, Error> {
        let target = Target::resolve(&self.config.connection)?;
        let session = session::open(&target).await?;
        let table = table::inspect(&session.client, &self.config, &self.key_column).await?;
        same_cluster(from, &table)?;
        session.client.batch_execute(&format!("LISTEN {}", config::channel(&self.config.table))).await?;
        let names =
            Names { user: target.user, dbname: target.dbname, table: self.config.table.clone(), ..Names::default() };
        let core = Core {
            session,
            table,
            names,
            status: self.status.clone(),
            interval: self.config.interval,
            lease: self.config.lease,
            horizon: tokio::sync::Mutex::new(Horizon::new()),
            flight: Mutex::default(),
            late: Mutex::new(None),
            failed: watch::channel(None).0,
        };
        if core.table.strictly_drawn {
            tracing::debug!("the order column is drawn from a sequence: the past can be closed");
        }
        shares::arrive(&core).await?;
        shares::look(&core).await?;
        Ok(Arc::new(core))
    }
}

/// T3: rows of another cluster would go out under the eyes of an operator who believes it is the same one.
fn same_cluster(from: Option<&Position>, table: &Table) -> Result<(), Error> {
    let Some(from) = from else { return Ok(()) };
    let before = match reader::parse_position(from.as_str()) {
        Some((system, _)) => system,
        // the log's: switching to polling is a change of configuration
        None => {
            from.as_str().strip_prefix("pg sys=").and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0)
        }
    };
    if before == table.system_id {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("this is another cluster (system identifier {}) than the one polled before ({before})", table.system_id),
        hint: "after a dump and restore that is as it should be: move this pipeline's state file away and start again; rows \
               that are still there go out, also those that the old cluster published and had not yet deleted or marked"
            .into(),
    })
}

#[async_trait]
impl OpenSource for PollSource {
    async fn open(&self, from: Option<Position>) -> Result<(Box<dyn Source>, Arc<dyn Confirm>), Failure> {
        self.status.set_state(State::Starting);
        let names = Names { table: self.config.table.clone(), ..Names::default() };
        let core = self.begin(from.as_ref()).await.map_err(|error| classify(error, &names))?;
        let (send, receive) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(forget(core.clone(), receive));
        tasks.spawn(keep(core.clone()));
        tasks.spawn(close_the_past(core.clone()));
        let confirm = Confirmer { core: core.clone(), forget: send };
        Ok((Box::new(Open { reader: reader::Reader::new(core), _tasks: tasks }), Arc::new(confirm)))
    }
}

/// A reader and the tasks beside it, which end with it.
struct Open {
    reader: reader::Reader,
    _tasks: JoinSet<()>,
}

#[async_trait]
impl Source for Open {
    async fn next(&mut self, room: usize) -> Result<tailwater_core::Batch, Failure> {
        self.reader.next(room).await
    }
}

/// What all parts of one opening share.
pub(crate) struct Core {
    session: Session,
    table: Table,
    names: Names,
    status: Arc<Status>,
    interval: Duration,
    lease: Duration,
    /// Held while a fetch runs: one at a time, and no share changes hands meanwhile.
    horizon: tokio::sync::Mutex<Horizon>,
    flight: Mutex<Flight>,
    /// When the next look for late rows is due.
    late: Mutex<Option<Instant>>,
    /// Why this opening is over.
    failed: watch::Sender<Option<String>>,
}

impl Core {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().expect("no panic while the lock is held")
    }

    fn fail(&self, error: &Error) {
        self.failed.send_replace(Some(chain(error)));
    }
}

fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn conclude(core: &Core, error: Error) -> Failure {
    core.status.source_seen.clear();
    classify(error, &core.names)
}

/// Tells the database what may go. See [`Confirm`].
struct Confirmer {
    core: Arc<Core>,
    forget: mpsc::UnboundedSender<(Vec<Flying>, oneshot::Sender<()>)>,
}

#[async_trait]
impl Confirm for Confirmer {
    /// Waits for the database only if nothing is left on its way: then the relay may be about to leave, and rows that are
    /// published should not be published again by the next one.
    async fn confirm(&self, upto: &Position) -> Result<(), Failure> {
        let Some((_, number)) = reader::parse_position(upto.as_str()) else { return Ok(()) };
        let (rows, last) = self.core.flight().confirmed(number);
        if rows.is_empty() {
            return Ok(());
        }
        let (done, wait) = oneshot::channel();
        // a task that is gone has failed, which the reader is about to hear
        if self.forget.send((rows, done)).is_ok() && last {
            drop(tokio::time::timeout(LAST_WAIT, wait).await);
        }
        Ok(())
    }
}

/// Deletes or marks what is published, in the order of confirmation.
async fn forget(core: Arc<Core>, mut due: mpsc::UnboundedReceiver<(Vec<Flying>, oneshot::Sender<()>)>) {
    let sql = core.table.done_sql();
    let statement = match core.session.client.prepare(&sql).await {
        Ok(statement) => statement,
        Err(error) => return core.fail(&error.into()),
    };
    while let Some((rows, done)) = due.recv().await {
        for rows in rows.chunks(DONE_ROWS) {
            let orders: Vec<i64> = rows.iter().map(|row| row.order).collect();
            match core.session.client.execute(&statement, &[&orders]).await {
                // fewer: somebody else took rows away, which harms nothing
                Ok(_) => core.flight().gone(rows),
                Err(error) => return core.fail(&error.into()),
            }
        }
        let _ = done.send(());
    }
}

/// Looks at the other relays; also the sign of life, so it runs whether or not anybody wants rows.
async fn keep(core: Arc<Core>) {
    let mut ended = core.session.ended.clone();
    loop {
        tokio::select! {
            why = async { ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) } => {
                let why = why.unwrap_or_default();
                return core.fail(&Error::Io(std::io::Error::other(format!("the session ended: {why}"))));
            }
            () = tokio::time::sleep(shares::LOOK_EVERY) => {}
        }
        if let Err(error) = shares::look(&core).await {
            return core.fail(&error);
        }
    }
}

/// Moves the floor; names who holds it up.
async fn close_the_past(core: Arc<Core>) {
    if !core.table.strictly_drawn {
        return;
    }
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        if !core.horizon.lock().await.wants_watching() {
            continue;
        }
        let open: BTreeSet<String> = match horizon::open_transactions(&core.session.client).await {
            Ok(open) => open,
            Err(error) => return core.fail(&error),
        };
        let mut horizon = core.horizon.lock().await;
        if let Some((transactions, age)) = horizon.stuck(&open) {
            tracing::warn!(
                pipeline = %core.status.name, ?transactions, age_s = age.as_secs(),
                "open transactions: they may still insert rows that belong further back; rows flow, looks for late ones cost more"
            );
        }
        horizon.watch(open);
    }
}
