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
//! - **Cost** stays flat: a look reads what is new and the gaps that are open (`horizon.rs`), on an index.
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
use crate::sources::postgres::position::PgPosition;
use crate::sources::postgres::target::Target;
use async_trait::async_trait;
use config::PollConfig;
use flight::{Flight, Flying};
use horizon::Horizon;
use reader::PollPosition;
use session::Session;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use table::Table;
use tailwater_core::{Confirm, Failure, OpenSource, Position, Source};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// How often it is looked who may still fill the gaps, while there are any.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// A transaction that keeps gaps open for longer is named.
const NAME_AFTER: Duration = Duration::from_secs(10);
/// Published rows that somebody has locked are tried again after this.
const LOCKED_PAUSE: Duration = Duration::from_secs(1);
/// Everything is looked at again this often, where that is cheap: nothing else finds a row whose order value was given by
/// hand, reset with its sequence, or marked and unmarked.
const AFRESH_EVERY: Duration = Duration::from_secs(60);
/// Rows deleted or marked by one statement.
const DONE_ROWS: usize = 10_000;
/// How long a confirmation of the very last rows waits for the database.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// An outbox table, to be opened as often as needed.
pub struct PollSource {
    config: PollConfig,
    /// The router's key column: rows of one key have one owner.
    key_column: String,
    afresh: Duration,
    status: Arc<Status>,
}

impl PollSource {
    /// Connects to nothing yet.
    pub fn new(config: PollConfig, key_column: &str, status: Arc<Status>) -> PollSource {
        PollSource { config, key_column: key_column.to_owned(), afresh: AFRESH_EVERY, status }
    }

    /// Looks at everything again this often, instead of every minute: for tests, no setting.
    #[must_use]
    pub fn looking_afresh_every(self, afresh: Duration) -> PollSource {
        PollSource { afresh, ..self }
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
            afresh: self.afresh,
            lease: self.config.lease,
            opening: rand::random(),
            horizon: tokio::sync::Mutex::new(Horizon::new()),
            flight: Mutex::default(),
            proven: Mutex::new(Instant::now()),
            silence: Mutex::default(),
            over: watch::channel(None).0,
        };
        self.status.set_notice(None);
        if from.is_some_and(|from| from.as_str().starts_with("pg ")) {
            say_what_the_log_left(&core).await?;
        }
        shares::arrive(&core).await?;
        shares::look(&core).await?;
        Ok(Arc::new(core))
    }
}

/// T3: rows of another cluster would go out under the eyes of an operator who believes it is the same one.
fn same_cluster(from: Option<&Position>, table: &Table) -> Result<(), Error> {
    let Some(from) = from else { return Ok(()) };
    let before = match PollPosition::parse(from) {
        Some(position) => position.system_id,
        // the log's: switching to polling is a change of configuration
        None => PgPosition::parse(from)?.system_id,
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

/// Switched from the log to polling: which rows it has published the table does not say, and its slot keeps the log.
async fn say_what_the_log_left(core: &Core) -> Result<(), Error> {
    const SLOTS: &str = "SELECT slot_name::text FROM pg_catalog.pg_replication_slots \
         WHERE database = current_database() AND plugin = 'pgoutput' AND NOT active ORDER BY 1";
    let slots: Vec<String> = core.session.client.query(SLOTS, &[]).await?.iter().map(|row| row.get(0)).collect();
    tracing::warn!(
        pipeline = %core.status.name, idle_slots = ?slots,
        "switched from the log to polling: every row that is still in the table goes out (consumers skip those they know). \
         If one of these slots was this pipeline's, drop it, since it keeps the log: SELECT pg_drop_replication_slot('…');"
    );
    Ok(())
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
    afresh: Duration,
    lease: Duration,
    /// Tells the positions of this opening from those of others.
    opening: u64,
    /// Held while a fetch runs: one at a time; no share changes hands and no row is forgotten meanwhile.
    horizon: tokio::sync::Mutex<Horizon>,
    flight: Mutex<Flight>,
    /// When a statement was begun that the session has answered.
    proven: Mutex<Instant>,
    silence: Mutex<shares::Silence>,
    /// Why this opening is over.
    over: watch::Sender<Option<Over>>,
}

/// Why an opening is over: what [`Failure`] says, for several listeners.
#[derive(Clone, Debug)]
enum Over {
    Retry(String),
    Fatal { hint: String, text: String },
}

impl From<Over> for Failure {
    fn from(over: Over) -> Failure {
        match over {
            Over::Retry(text) => Failure::retry(text),
            Over::Fatal { hint, text } => Failure::fatal(hint, text),
        }
    }
}

impl Core {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().expect("no panic while the lock is held")
    }

    fn position(&self, batch: u64) -> Position {
        PollPosition { system_id: self.table.system_id, opening: self.opening, batch }.to_position()
    }

    /// The session has answered a statement that was begun then.
    fn proven(&self, began: Instant) {
        *self.proven.lock().expect("no panic while the lock is held") = began;
    }

    /// Asks the session whether it lives, if it has not answered for a good part of the lease.
    async fn prove(&self) -> Result<(), Error> {
        let proven = *self.proven.lock().expect("no panic while the lock is held");
        if proven.elapsed() > self.lease / 2 {
            let began = Instant::now();
            let asked = tokio::time::timeout(self.lease, self.session.client.query_one("SELECT 1", &[])).await;
            asked.map_err(|_| Error::Timeout("the session does not answer any more"))??;
            self.proven(began);
        }
        Ok(())
    }

    fn why(&self, error: Error) -> Over {
        match classify(error, &self.names) {
            Failure::Fatal { hint, source } => Over::Fatal { hint: hint.into_owned(), text: chain(source.as_ref()) },
            Failure::Retry { source, .. } => Over::Retry(chain(source.as_ref())),
        }
    }

    /// The first reason counts: what follows it is its consequence.
    fn end(&self, over: Over) {
        self.over.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(over);
            first
        });
    }

    fn fail(&self, error: Error) {
        self.end(self.why(error));
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
        let position = PollPosition::parse(upto).filter(|position| position.opening == self.core.opening);
        let Some(position) = position else { return Ok(()) };
        let (rows, last) = self.core.flight().confirmed(position.batch);
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
    let statement = match core.session.client.prepare(&core.table.done_sql()).await {
        Ok(statement) => statement,
        Err(error) => return core.fail(error.into()),
    };
    while let Some((rows, done)) = due.recv().await {
        for rows in rows.chunks(DONE_ROWS) {
            let orders: Vec<i64> = rows.iter().map(|row| row.order).collect();
            while let Err(error) = core.session.client.execute(&statement, &[&orders]).await {
                if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                    return core.end(undone(&core, error));
                }
                tracing::warn!(pipeline = %core.status.name, "published rows are locked by another transaction: tried again");
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            // fewer rows than asked for: somebody else took them away, which harms nothing
            let _no_fetch = core.horizon.lock().await;
            core.flight().gone(rows);
        }
        let _ = done.send(());
    }
}

/// A statement that the server refuses will be refused again, and the rows published again each time.
fn undone(core: &Core, error: tokio_postgres::Error) -> Over {
    const REFUSED: [&str; 8] = ["09", "0A", "21", "22", "23", "27", "42", "P0"];
    let refused = error.code().is_some_and(|code| REFUSED.contains(&&code.code()[..2]));
    match core.why(error.into()) {
        Over::Retry(text) if refused => Over::Fatal {
            hint: format!("{} must be possible for this role; the rows are published", core.table.done_sql()),
            text,
        },
        over => over,
    }
}

/// Looks at the other relays; also the sign of life, so it runs whether or not anybody wants rows.
async fn keep(core: Arc<Core>) {
    let mut ended = core.session.ended.clone();
    loop {
        tokio::select! {
            why = async { ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) } => {
                let why = why.unwrap_or_default();
                return core.fail(Error::Io(std::io::Error::other(format!("the session ended: {why}"))));
            }
            () = tokio::time::sleep(shares::LOOK_EVERY) => {}
        }
        match tokio::time::timeout(core.lease, shares::look(&core)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return core.fail(error),
            Err(_) => return core.fail(Error::Timeout("the session does not answer any more")),
        }
    }
}

/// Closes gaps; names who keeps them open.
async fn close_the_past(core: Arc<Core>) {
    let Some(sequence) = core.table.sequence else { return };
    let mut named = false;
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(upto) = core.horizon.lock().await.to_watch() else {
            named = false;
            core.status.set_notice(None);
            continue;
        };
        let holders = match horizon::holders(&core.session.client, sequence).await {
            Ok(holders) => holders,
            Err(error) => return core.fail(error),
        };
        let mut horizon = core.horizon.lock().await;
        horizon.watch(upto, &holders);
        let notice = horizon.stuck(&holders, NAME_AFTER).map(|(who, age)| {
            let who = who.join("; ");
            let seconds = age.as_secs();
            format!("a transaction may still insert rows that belong further back, for {seconds} s now: {who}")
        });
        if notice.is_some() && !named {
            let text = notice.as_deref().unwrap_or_default();
            tracing::warn!(pipeline = %core.status.name, "{text}; rows flow, and looks cost a little more");
        }
        named = notice.is_some();
        core.status.set_notice(notice);
    }
}
