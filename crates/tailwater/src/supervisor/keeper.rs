//! One pipeline's life: runs it, hears orders, decides what an end means. Nothing of other pipelines is known here.

use super::{Assemble, Target};
use crate::config::PipelineConfig;
use crate::memory::Memory;
use crate::metrics::{State, Status};
use crate::pipeline::{Parts, Pause, Pipeline};
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::Failure;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A failed pipeline is tried again after so long, twice as long each time, up to the maximum.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Where a keeper stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not running, by order.
    Idle,
    Running,
    Failed {
        error: String,
        hint: String,
    },
    /// The keeper has ended; the last run's error and hint, if it ended by one.
    Done {
        failed: Option<(String, String)>,
    },
}

/// Waits until a keeper has ended.
pub(super) async fn done(mut phase: watch::Receiver<Phase>) {
    // an error: the keeper is gone, which is as good
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Done { .. })).await;
}

pub(super) struct Keeper {
    pub name: String,
    pub pipeline: Arc<PipelineConfig>,
    pub status: Arc<Status>,
    pub assemble: Arc<dyn Assemble>,
    pub memory: Memory,
    /// For the first run; later ones make their own.
    pub parts: Option<Parts>,
    pub target: watch::Receiver<Target>,
    pub restart: Arc<Notify>,
    /// Ends it for good, drained.
    pub gone: CancellationToken,
    pub phase: watch::Sender<Phase>,
    pub changed: Arc<Notify>,
}

/// How a run ended.
enum Ended {
    /// For good, by order.
    Gone,
    /// Drained by order: stop or restart.
    Ordered,
    Failed(Failure),
}

/// Why a wait ended.
enum Woken {
    Gone,
    /// Start with a clean slate.
    Restart,
    Target,
    Elapsed,
}

impl Keeper {
    pub async fn run(mut self) {
        let mut delay = RETRY_FIRST;
        let mut last = None;
        loop {
            if *self.target.borrow_and_update() == Target::Stopped {
                self.enter(Phase::Idle);
                self.status.set_state(State::Stopped);
                match self.wait(None).await {
                    Woken::Gone => break,
                    _ => continue,
                }
            }
            self.enter(Phase::Running);
            let started = Instant::now();
            let failure = match self.attempt().await {
                Ended::Gone => break,
                Ended::Ordered => {
                    delay = RETRY_FIRST;
                    continue;
                }
                Ended::Failed(failure) => failure,
            };
            if started.elapsed() > RETRY_MAX {
                delay = RETRY_FIRST;
            }
            let again = self.report(&failure, delay);
            if self.gone.is_cancelled() {
                last = Some(told(&failure));
                break;
            }
            if *self.target.borrow() == Target::Stopped {
                continue; // it failed while it drained: what it held is published again at the next start
            }
            match self.wait(again).await {
                Woken::Gone => {
                    last = Some(told(&failure));
                    break;
                }
                Woken::Elapsed => delay = (delay * 2).min(RETRY_MAX),
                Woken::Restart | Woken::Target => {
                    delay = RETRY_FIRST;
                    self.status.set_state(State::Starting);
                }
            }
        }
        self.enter(Phase::Done { failed: last });
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        self.changed.notify_one();
    }

    async fn wait(&mut self, limit: Option<Duration>) -> Woken {
        let elapsed = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Woken::Gone,
            () = self.restart.notified() => Woken::Restart,
            Ok(()) = self.target.changed() => Woken::Target,
            () = elapsed => Woken::Elapsed,
        }
    }

    /// One run, until it ends or has to.
    async fn attempt(&mut self) -> Ended {
        self.status.begin();
        let (pause, stop) = (watch::Sender::new(*self.target.borrow() == Target::Paused), self.gone.child_token());
        let mut parts = match self.parts() {
            Ok(parts) => parts,
            Err(failure) => return Ended::Failed(failure),
        };
        parts.pause = Pause::by(&pause);
        // both end with this function: a keeper that is dropped takes its pipeline along
        let (mut running, mut beside) = (JoinSet::new(), JoinSet::new());
        running.spawn(Pipeline::new(parts).run(stop.clone()));
        if let Some(schedule) = self.assemble.schedule(&self.pipeline, self.status.clone()) {
            beside.spawn(schedule.run(stop.clone()));
        }
        let mut ordered = false;
        loop {
            tokio::select! {
                biased;
                ended = running.join_next() => {
                    return match outcome(ended.expect("one pipeline was spawned")) {
                        Err(failure) => Ended::Failed(failure),
                        Ok(()) if self.gone.is_cancelled() => Ended::Gone,
                        Ok(()) if ordered => Ended::Ordered,
                        Ok(()) => Ended::Failed(Failure::retry("the pipeline ended without an order")),
                    };
                }
                () = self.restart.notified(), if !ordered => {
                    ordered = true;
                    stop.cancel();
                }
                Ok(()) = self.target.changed(), if !ordered => match *self.target.borrow_and_update() {
                    Target::Stopped => {
                        ordered = true;
                        stop.cancel();
                    }
                    target => drop(pause.send_replace(target == Target::Paused)),
                },
            }
        }
    }

    fn parts(&mut self) -> Result<Parts, Failure> {
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => self.assemble.parts(&self.name, &self.pipeline, self.status.clone())?,
        };
        parts.memory = self.memory.join().ok_or_else(|| {
            let most = self.memory.parties_max();
            Failure::fatal(
                "set memory_bytes higher, or stop a pipeline",
                format!("{most} pipelines run already, and memory_bytes has room for no more"),
            )
        })?;
        Ok(parts)
    }

    /// Says that it failed. How long until it is tried again, if at all.
    fn report(&self, failure: &Failure, delay: Duration) -> Option<Duration> {
        // the source said it better, and what may be missing does not come back by trying
        let gap = matches!(self.status.state(), State::GapPossible { .. });
        let again = (!gap).then_some(delay);
        let (error, hint) = told(failure);
        tracing::error!(pipeline = %self.name, error = %failure, ?again, "pipeline failed");
        if !gap {
            self.status.set_state(State::Failed { error: error.clone(), hint: hint.clone() });
        }
        self.status.set_retry_in(again);
        self.enter(Phase::Failed { error, hint });
        again
    }
}

/// A panic is the pipeline's end, not the process's: what it was about to confirm was dropped with it.
fn outcome(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|panic| {
        Err(Failure::fatal(
            "this is a defect of the program: report it with the log's lines around `panicked`; nothing unsettled was \
             confirmed, and a restart goes on from the saved position",
            format!("an invariant does not hold ({})", if panic.is_panic() { "panic" } else { "task ended" }),
        ))
    })
}

/// Error and hint, apart.
pub(super) fn told(failure: &Failure) -> (String, String) {
    let hint = match failure {
        Failure::Fatal { hint, .. } => hint.to_string(),
        Failure::Retry { .. } => String::new(),
    };
    let text = failure.to_string();
    let error = text.strip_suffix(&format!("\n  what to do: {hint}")).unwrap_or(&text);
    (error.to_owned(), hint)
}
