//! Any number of pipelines in one process, each on its own: started, paused, stopped, restarted, replaced, removed.
//!
//! ```text
//!              put(Running)                       set_target(Stopped), drained
//!   (none) ───────────────▶ running ◀──────────▶ stopped
//!                           │  ▲  ▲ Paused/Running: the source is kept and not read
//!              fatal, panic ▼  │  └▶ paused
//!                          failed ── restart by an operator, or by itself after a back-off (not when events may be missing)
//! ```
//!
//! **One pipeline's trouble stays its own.** Each has a keeper (`keeper`): a task that runs the loop as another task, with
//! its own connections, its own floor of memory ([`crate::memory`]) and its own end. Nothing here waits for a pipeline,
//! except the one who asked for it to be drained.
//!
//! **A panic ends its pipeline, not the process.** An invariant that does not hold must never lead to a confirmation. What
//! decides about confirmations (ledger, lanes, source) is owned by the pipeline's task and dropped with it, its connections
//! close, and what comes next starts from the saved position: exactly what a crash of the process amounts to. Nothing that
//! pipelines share (memory numbers, statuses) is trusted for a confirmation. So the unit of a crash is the pipeline.
//!
//! **A fatal failure is tried again**, after 10 s at first and 5 min at most: a missing GRANT or a missing exchange is mended
//! elsewhere, and nobody should have to restart a process for it. It stays `failed`, with its hint, until it flows again.
//! "Events may be missing" is never tried again by itself.
//!
//! Not here: re-sending (lanes), reopening a source (pipeline), what `/connectors` means (control).

mod keeper;
pub mod store;

use crate::assemble;
use crate::config::{Config, PipelineConfig};
use crate::housekeeping::schedule::Schedule;
use crate::memory::Memory;
use crate::metrics::{Board, State, Status};
use crate::pipeline::Parts;
use keeper::{Keeper, Phase};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Store, Stored};
use tailwater_core::{Checkpoints, Failure, Position};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What an operator wants of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    #[default]
    Running,
    /// Nothing is read; the source is kept, so nobody else takes it.
    Paused,
    /// Drained, connections closed.
    Stopped,
}

/// Where a pipeline's configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defined {
    /// The process's own configuration: the file is changed, not the API.
    File,
    Rest,
}

/// One pipeline as it stands.
#[derive(Clone, Debug)]
pub struct Entry {
    pub defined: Defined,
    pub target: Target,
    pub status: Arc<Status>,
    pub pipeline: Arc<PipelineConfig>,
}

/// Makes the parts of a pipeline, anew for each start. Connects to nothing.
pub trait Assemble: Send + Sync {
    fn parts(&self, name: &str, pipeline: &PipelineConfig, status: Arc<Status>) -> Result<Parts, Failure>;

    /// What runs beside the pipeline.
    fn schedule(&self, pipeline: &PipelineConfig, status: Arc<Status>) -> Option<Schedule>;
}

impl Assemble for Config {
    fn parts(&self, name: &str, pipeline: &PipelineConfig, status: Arc<Status>) -> Result<Parts, Failure> {
        assemble::pipeline(name, pipeline, self, status)
    }

    fn schedule(&self, pipeline: &PipelineConfig, status: Arc<Status>) -> Option<Schedule> {
        Schedule::of(self, pipeline, status)
    }
}

/// All pipelines of a process. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor(Arc<Shared>);

struct Shared {
    assemble: Arc<dyn Assemble>,
    memory: Memory,
    stop: CancellationToken,
    board: Board,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Defined, and no pipeline can be made of it: shown as failed.
    refused: Mutex<BTreeSet<String>>,
    /// One change at a time to a name.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Some pipeline entered another phase.
    changed: Arc<Notify>,
    /// Pipelines may come later: the process waits for them.
    worker: bool,
}

/// The supervisor's end of a keeper.
struct Kept {
    defined: Defined,
    pipeline: Arc<PipelineConfig>,
    status: Arc<Status>,
    target: watch::Sender<Target>,
    restart: Arc<Notify>,
    gone: CancellationToken,
    phase: watch::Receiver<Phase>,
}

impl Kept {
    fn entry(&self) -> Entry {
        let (target, status, pipeline) = (*self.target.borrow(), self.status.clone(), self.pipeline.clone());
        Entry { defined: self.defined, target, status, pipeline }
    }

    fn failed(&self) -> Option<(String, String)> {
        match &*self.phase.borrow() {
            Phase::Failed { error, hint } => Some((error.clone(), hint.clone())),
            Phase::Done { failed } => failed.clone(),
            Phase::Idle | Phase::Running => None,
        }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("pipelines", &self.names()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// No pipelines yet. `stop` ends all of them, drained. A configuration without pipelines is a worker's: it waits for them.
    pub fn new(config: &Config, stop: CancellationToken) -> Self {
        Supervisor::with(Arc::new(config.clone()), config.memory_bytes, config.pipelines.is_empty(), stop)
    }

    /// As [`Supervisor::new`], with parts from elsewhere. A `worker` goes on without any pipeline.
    pub fn with(assemble: Arc<dyn Assemble>, memory_bytes: usize, worker: bool, stop: CancellationToken) -> Self {
        Supervisor(Arc::new(Shared {
            assemble,
            memory: Memory::new(memory_bytes),
            stop,
            board: Board::default(),
            kept: Mutex::new(BTreeMap::new()),
            refused: Mutex::new(BTreeSet::new()),
            turns: Mutex::new(HashMap::new()),
            changed: Arc::new(Notify::new()),
            worker,
        }))
    }

    /// Creates a pipeline, or replaces one of the same name: the old one is drained first, its position stays.
    ///
    /// Errors: the configuration cannot be made into a pipeline (the old one goes on), or the process is stopping.
    pub async fn put(
        &self,
        name: &str,
        pipeline: PipelineConfig,
        defined: Defined,
        target: Target,
    ) -> Result<(), Failure> {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        if self.0.stop.is_cancelled() {
            return Err(Failure::retry("the process is stopping"));
        }
        let status = Arc::new(Status::new(name));
        let parts = self.0.assemble.parts(name, &pipeline, status.clone())?;
        if let Some(old) = self.end(name) {
            keeper::done(old).await;
        }
        let pipeline = Arc::new(pipeline);
        let (target, wanted) = watch::channel(target);
        let (phase, phase_now) = watch::channel(Phase::Idle);
        let (restart, gone) = (Arc::new(Notify::new()), self.0.stop.child_token());
        let keeper = Keeper {
            name: name.to_owned(),
            pipeline: pipeline.clone(),
            status: status.clone(),
            assemble: self.0.assemble.clone(),
            memory: self.0.memory.clone(),
            parts: Some(parts).filter(|_| *wanted.borrow() != Target::Stopped),
            target: wanted,
            restart: restart.clone(),
            gone: gone.clone(),
            phase,
            changed: self.0.changed.clone(),
        };
        self.0.board.insert(status.clone());
        self.refused().remove(name);
        let kept = Kept { defined, pipeline, status, target, restart, gone, phase: phase_now };
        self.kept().insert(name.to_owned(), kept);
        tokio::spawn(keeper.run());
        Ok(())
    }

    /// Starts what was defined by REST before. A definition of which `convert` can make no pipeline any more (another version
    /// wrote it) stands as failed, and the others run. Error: a file that cannot be read.
    pub async fn restore(
        &self,
        store: &Store,
        convert: impl Fn(&Stored) -> Result<PipelineConfig, Failure>,
    ) -> Result<(), Failure> {
        for stored in store.load_all().await? {
            let put = match convert(&stored) {
                Ok(_) if self.get(&stored.name).is_some_and(|entry| entry.defined == Defined::File) => {
                    let hint = "rename the pipeline in the file; or delete the connector by its file";
                    tracing::error!(pipeline = %stored.name, hint, "a connector has the name of a pipeline of the file: not started");
                    continue;
                }
                Ok(pipeline) => self.put(&stored.name, pipeline, Defined::Rest, stored.target).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = put {
                self.refuse(&stored.name, &failure);
            }
        }
        Ok(())
    }

    /// Shows a definition as failed that is no pipeline ([`Supervisor::get`] does not know it). [`Supervisor::put`] and
    /// [`Supervisor::remove`] end that.
    pub fn refuse(&self, name: &str, failure: &Failure) {
        let (error, hint) = keeper::told(failure);
        tracing::error!(pipeline = name, error = %failure, "not started");
        let status = Arc::new(Status::new(name));
        status.set_state(State::Failed { error, hint });
        self.0.board.insert(status);
        self.refused().insert(name.to_owned());
    }

    /// Drains a pipeline and forgets it, its saved position too. The slot stays: it belongs to the database. False: no such.
    pub async fn remove(&self, name: &str) -> bool {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        if self.refused().remove(name) {
            self.0.board.remove(name);
            return true;
        }
        let Some(done) = self.end(name) else { return false };
        keeper::done(done).await;
        match self.checkpoints(name) {
            Ok(checkpoints) => {
                if let Err(error) = checkpoints.clear().await {
                    tracing::warn!(pipeline = name, %error, "the saved position stays");
                }
            }
            Err(error) => tracing::warn!(pipeline = name, %error, "the saved position stays"),
        }
        self.0.board.remove(name);
        self.kept().remove(name);
        self.0.changed.notify_one();
        true
    }

    /// Orders; the status tells when it is so. False: no such pipeline.
    pub async fn set_target(&self, name: &str, target: Target) -> bool {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        self.kept().get(name).map(|kept| kept.target.send_replace(target)).is_some()
    }

    /// Starts a pipeline anew, failed or not: a running one is drained first. One that is stopped stays so. False: no such.
    pub async fn restart(&self, name: &str) -> bool {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        self.kept().get(name).map(|kept| kept.restart.notify_one()).is_some()
    }

    pub fn get(&self, name: &str) -> Option<Entry> {
        self.kept().get(name).map(Kept::entry)
    }

    /// In the order of the alphabet.
    pub fn names(&self) -> Vec<String> {
        self.kept().keys().cloned().collect()
    }

    pub fn statuses(&self) -> Vec<Arc<Status>> {
        self.0.board.all()
    }

    /// The live list of statuses, for the HTTP port.
    pub fn board(&self) -> Board {
        self.0.board.clone()
    }

    /// Where a restart would go on from; `None`: from the beginning, as far as this process knows.
    pub async fn position(&self, name: &str) -> Result<Option<Position>, Failure> {
        self.checkpoints(name)?.load().await
    }

    /// Sets or forgets the position of a pipeline that is stopped.
    pub async fn set_position(&self, name: &str, position: Option<Position>) -> Result<(), Failure> {
        let turn = self.turn(name);
        let _turn = turn.lock().await;
        let idle = self.kept().get(name).is_some_and(|kept| {
            *kept.target.borrow() == Target::Stopped
                && *kept.phase.borrow() == Phase::Idle
                && kept.status.state() == State::Stopped
        });
        if !idle {
            return Err(Failure::fatal("stop it first, and wait until it is", "the pipeline is not stopped"));
        }
        let checkpoints = self.checkpoints(name)?;
        match position {
            Some(position) => checkpoints.save(&position).await,
            None => checkpoints.clear().await,
        }
    }

    /// Until `stop` and drained; or, where all pipelines are the configuration's own, until none of them runs any more.
    /// The first that failed decides. With pipelines that came by REST the process stays up: others may come.
    pub async fn run_until_done(&self) -> Result<(), Failure> {
        while !self.0.stop.is_cancelled() {
            if self.nothing_left() {
                self.0.stop.cancel();
            }
            tokio::select! {
                () = self.0.stop.cancelled() => {}
                () = self.0.changed.notified() => {}
            }
        }
        let phases: Vec<_> = self.kept().values().map(|kept| kept.phase.clone()).collect();
        for phase in phases {
            keeper::done(phase).await;
        }
        let kept = self.kept();
        let own = kept.values().filter(|kept| kept.defined == Defined::File);
        match own.filter_map(Kept::failed).next() {
            Some((error, hint)) => Err(Failure::fatal(hint, error)),
            None => Ok(()),
        }
    }

    /// Every pipeline is the configuration's own, wanted, and failed.
    fn nothing_left(&self) -> bool {
        let kept = self.kept();
        let lost = |kept: &Kept| {
            kept.defined == Defined::File && *kept.target.borrow() == Target::Running && kept.failed().is_some()
        };
        !self.0.worker && self.refused().is_empty() && kept.values().all(lost)
    }

    fn checkpoints(&self, name: &str) -> Result<Arc<dyn Checkpoints>, Failure> {
        let entry = self.get(name).ok_or_else(|| Failure::fatal("name one that exists", "no such pipeline"))?;
        let parts = self.0.assemble.parts(name, &entry.pipeline, Arc::new(Status::new(name)))?;
        Ok(parts.checkpoints)
    }

    /// Tells a pipeline to end for good.
    fn end(&self, name: &str) -> Option<watch::Receiver<Phase>> {
        let kept = self.kept();
        let kept = kept.get(name)?;
        kept.gone.cancel();
        Some(kept.phase.clone())
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.to_owned()).or_default().clone()
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
