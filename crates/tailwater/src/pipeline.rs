//! THE loop: one pipeline, from source to sink. A record's life reads top to bottom in `Pipeline::stream`.
//!
//! ```text
//!   Source::next → Route::apply → Ledger::open → lane → Publisher → Ledger::settle → Checkpoints::save → Confirm::confirm
//! ```
//!
//! Save first, confirm second: once confirmed, the source may forget. Not here: re-sending (lanes), standby and gap decisions
//! (the source's opening), starting again after a failure (the supervisor).

mod pause;
mod plan;

use crate::config::{DeliveryConfig, OnRejected, Order};
use crate::lanes::{Lane, LaneSetup, Report, Work};
use crate::memory::Share;
use crate::metrics::{State, Status};
use futures_util::future::BoxFuture;
pub use pause::Pause;
use plan::Plan;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tailwater_core::ledger::Ledger;
use tailwater_core::route::{Route, Routed};
use tailwater_core::{Batch, Checkpoints, Confirm, Failure, Message, OpenSource, Position, Sink, Source};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

const REOPEN_FIRST: Duration = Duration::from_millis(200);
const REOPEN_MAX: Duration = Duration::from_secs(5);

/// Where lanes report their troubles, the saving of positions reports its own.
const SAVING: u32 = u32::MAX;

/// What a pipeline is made of.
pub struct Parts {
    pub source: Arc<dyn OpenSource>,
    pub route: Box<dyn Route>,
    pub sink: Arc<dyn Sink>,
    pub dead_letters: Option<Arc<dyn Sink>>,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub delivery: DeliveryConfig,
    pub status: Arc<Status>,
    /// Its part of the process's memory.
    pub memory: Share,
    pub pause: Pause,
}

/// How [`Pipeline::stream`] ended, when nothing is wrong.
enum Ended {
    Stopped,
    /// The source broke off; all that was in flight is settled and saved.
    SourceLost(Failure),
}

/// One running pipeline.
pub struct Pipeline {
    source: Arc<dyn OpenSource>,
    route: Box<dyn Route>,
    checkpoints: Arc<dyn Checkpoints>,
    delivery: DeliveryConfig,
    status: Arc<Status>,
    memory: Share,
    pause: Pause,
    ledger: Ledger,
    work: Vec<mpsc::UnboundedSender<Work>>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Keeps `reports` open after the last lane has ended.
    _report: mpsc::UnboundedSender<Report>,
    lanes: JoinSet<Result<(), Failure>>,
    /// Settled contiguously, to be saved next.
    safe: Option<Position>,
    saved: Option<Position>,
    /// Saved, and the source could not be told yet.
    unconfirmed: Option<Position>,
    /// A lane held at a refused event when the order to stop came.
    held: bool,
}

impl Pipeline {
    /// Starts the lanes; nothing flows until [`Pipeline::run`].
    pub fn new(parts: Parts) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let (mut lanes, mut work) = (JoinSet::new(), Vec::new());
        for index in 0..parts.delivery.lanes.max(1) {
            let (send, receive) = mpsc::unbounded_channel();
            let setup = LaneSetup {
                index,
                sink: parts.sink.clone(),
                dead_letters: parts
                    .dead_letters
                    .clone()
                    .filter(|_| parts.delivery.on_rejected == OnRejected::DeadLetter),
                on_rejected: parts.delivery.on_rejected,
                window: if parts.delivery.order == Order::Strict { 1 } else { parts.delivery.window.max(1) },
                status: parts.status.clone(),
            };
            lanes.spawn(Lane::new(setup, receive, report.clone()).run());
            work.push(send);
        }
        Pipeline {
            source: parts.source,
            route: parts.route,
            checkpoints: parts.checkpoints,
            ledger: Ledger::new(parts.delivery.memory_bytes),
            delivery: parts.delivery,
            status: parts.status,
            memory: parts.memory,
            pause: parts.pause,
            work,
            reports,
            _report: report,
            lanes,
            safe: None,
            saved: None,
            unconfirmed: None,
            held: false,
        }
    }

    /// Runs until `stop` (then drains) or until an operator must act. Dropping the future is a crash, which is safe.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        self.saved = self.checkpoints.load().await?;
        if let Some(position) = &self.saved {
            self.status.set_saved(position.clone());
        }
        let mut delay = REOPEN_FIRST;
        loop {
            if !self.wait_while_paused(&stop).await {
                break;
            }
            let opened = tokio::select! {
                biased;
                _ = stop.cancelled() => break,
                failure = lane_failure(&mut self.lanes) => return Err(failure),
                opened = self.source.open(self.saved.clone()) => opened,
            };
            let claimed = match opened {
                Ok(ends) => self.claim().await.map(|current| current.then_some(ends)),
                Err(failure) => Err(failure),
            };
            let failure = match claimed {
                Ok(None) => continue,
                Ok(Some((source, confirm))) => {
                    let started = Instant::now();
                    match self.stream(source, confirm, &stop).await? {
                        Ended::Stopped => break,
                        Ended::SourceLost(failure) => {
                            if started.elapsed() > REOPEN_MAX {
                                delay = REOPEN_FIRST;
                            }
                            failure
                        }
                    }
                }
                Err(failure) => failure,
            };
            let Failure::Retry { after, .. } = &failure else { return Err(failure) };
            let wait = after.unwrap_or(delay);
            delay = (delay * 2).min(REOPEN_MAX);
            tracing::warn!(pipeline = %self.status.name, error = %failure, ?wait, "open the source again");
            self.status.set_state(State::Retrying { what: "read".into(), error: failure.to_string() });
            tokio::select! {
                _ = sleep(wait) => {}
                _ = stop.cancelled() => break,
            }
        }
        self.leave().await
    }

    /// The source is held. False: it was opened at a position that another process has left behind meanwhile.
    async fn claim(&mut self) -> Result<bool, Failure> {
        let stored = self.checkpoints.claim().await?;
        let current = stored == self.saved;
        if !current {
            tracing::info!(pipeline = %self.status.name, "another process went on from the position that was known here: read it anew");
            self.saved = stored;
            if let Some(position) = &self.saved {
                self.status.set_saved(position.clone());
            }
        }
        Ok(current)
    }

    /// A pipeline that is paused before its source is open does not open it. False: told to stop meanwhile.
    async fn wait_while_paused(&mut self, stop: &CancellationToken) -> bool {
        while self.pause.ordered() {
            self.status.set_paused(true, State::Starting);
            tokio::select! {
                biased;
                _ = stop.cancelled() => return false,
                () = self.pause.changed() => {}
            }
        }
        self.status.set_paused(false, State::Starting);
        true
    }

    /// One opening of the source, from its first batch to its end.
    async fn stream(
        &mut self,
        mut source: Box<dyn Source>,
        confirm: Arc<dyn Confirm>,
        stop: &CancellationToken,
    ) -> Result<Ended, Failure> {
        let checkpoints = self.checkpoints.clone();
        self.unconfirmed = None; // a source confirms by itself what it was opened with
        let mut tick = interval(self.delivery.confirm_interval.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saving: Option<BoxFuture<'static, (Position, Result<(), Failure>)>> = None;
        let mut lost: Option<Failure> = None;
        let mut deadline: Option<Instant> = None;
        let mut reports = Vec::new();
        loop {
            let draining = lost.is_some() || deadline.is_some();
            if draining && saving.is_none() && self.drained(deadline.is_some()) {
                return match lost {
                    Some(failure) if deadline.is_none() => Ok(Ended::SourceLost(failure)),
                    _ => Ok(Ended::Stopped),
                };
            }
            let last = draining && self.ledger.is_empty();
            let wanted = if draining || self.pause.ordered() { None } else { self.ledger.room() };
            let room = self.memory.grant(self.ledger.in_flight_bytes(), wanted.unwrap_or(0));
            tokio::select! {
                biased;
                // 1. results first: they make room
                _ = self.reports.recv_many(&mut reports, 1024) => self.settle(&mut reports),
                // 2. a saved position may be confirmed
                (position, outcome) = async { saving.as_mut().expect("guarded").await }, if saving.is_some() => {
                    saving = None;
                    self.saved(position, outcome, confirm.as_ref()).await?;
                }
                // 3. a lane ends only when an operator must act
                failure = lane_failure(&mut self.lanes) => return Err(failure),
                // 4. stop: take nothing new, drain, confirm, leave
                _ = stop.cancelled(), if deadline.is_none() => {
                    self.held = matches!(self.status.state(), State::Held { .. });
                    self.status.set_state(State::Draining);
                    deadline = Some(Instant::now() + self.delivery.drain_timeout);
                }
                _ = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    tracing::warn!(in_flight = self.ledger.in_flight(), "leave undrained: what is in flight is published again at the next start");
                    return Ok(Ended::Stopped);
                }
                // 5. paused: the source is kept and not read
                () = self.pause.changed() => self.status.set_paused(self.pause.ordered(), State::Streaming),
                // 6. save what is settled: on the tick, or with the last of a drain
                _ = tick.tick(), if saving.is_none() && (self.safe.is_some() || self.unconfirmed.is_some()) && !last => {
                    saving = self.safe.take().map(|position| save(checkpoints.clone(), position));
                    if saving.is_none() {
                        self.confirm(confirm.as_ref()).await?;
                    }
                }
                _ = std::future::ready(()), if saving.is_none() && self.safe.is_some() && last => {
                    saving = self.safe.take().map(|position| save(checkpoints.clone(), position));
                }
                // 7. new work, only when the ledger has room
                batch = source.next(room.unwrap_or(1)), if room.is_some() => match batch {
                    Ok(batch) => self.take(batch),
                    Err(failure) if failure.is_fatal() => return Err(failure),
                    Err(failure) => lost = Some(failure),
                },
            }
        }
    }

    /// Routes a batch, enters it into the ledger, hands it to the lanes.
    fn take(&mut self, batch: Batch) {
        self.status.progress.touch();
        self.status.received.fetch_add(batch.changes.len() as u64, Relaxed);
        let mut plan = Plan::new(self.work.len());
        let mut filtered = 0;
        let mut topic: Option<Arc<str>> = None;
        for change in &batch.changes {
            match self.route.apply(change) {
                Routed::Message(message) => {
                    self.note_topic(&mut topic, &message);
                    plan.message(message, change);
                }
                Routed::Messages(messages) => messages.into_iter().for_each(|message| {
                    self.note_topic(&mut topic, &message);
                    plan.message(message, change);
                }),
                Routed::Filtered(_) => filtered += 1,
                Routed::Rejected { reason, raw } => {
                    self.status.rejected.fetch_add(1, Relaxed);
                    plan.refused(*raw, reason, change);
                }
            }
        }
        self.status.filtered.fetch_add(filtered, Relaxed);
        for notice in self.route.notices() {
            tracing::warn!(pipeline = %self.status.name, "{notice}");
        }
        let bytes = batch.size_bytes + plan.bytes;
        plan.upto = (self.work.len() == 1).then(|| batch.upto.clone());
        let entry = self.ledger.open(batch.upto, plan.messages, bytes);
        let oldest = batch.changes.first().map_or(0, |change| change.commit.time_us);
        plan.hand_over(entry, &self.work);
        if self.status.oldest_open_us.load(Relaxed) == 0 && !self.ledger.is_empty() {
            self.status.oldest_open_us.store(oldest, Relaxed);
        }
        self.note_ledger();
    }

    /// The same topic again costs a comparison.
    fn note_topic(&self, last: &mut Option<Arc<str>>, message: &Message) {
        if last.as_ref().is_none_or(|last| *last != message.topic) {
            self.status.note_topic(&message.topic);
            *last = Some(message.topic.clone());
        }
    }

    fn settle(&mut self, reports: &mut Vec<Report>) {
        for report in reports.drain(..) {
            self.ledger.settle(report.entry, report.count);
        }
        self.status.progress.touch();
        self.note_ledger();
    }

    fn note_ledger(&mut self) {
        if let Some(safe) = self.ledger.take_safe() {
            self.safe = Some(safe);
        }
        if self.ledger.is_empty() {
            self.status.oldest_open_us.store(0, Relaxed);
        }
        self.status.in_flight_messages.store(self.ledger.in_flight() as u64, Relaxed);
        self.status.in_flight_bytes.store(self.ledger.in_flight_bytes() as u64, Relaxed);
    }

    /// The save ended: only a durable position is confirmed.
    async fn saved(
        &mut self,
        position: Position,
        outcome: Result<(), Failure>,
        confirm: &dyn Confirm,
    ) -> Result<(), Failure> {
        match outcome {
            Ok(()) => {
                self.status.recovered_if_troubled(SAVING);
                self.saved = Some(position.clone());
                self.status.set_saved(position.clone());
                self.unconfirmed = Some(position);
                self.confirm(confirm).await
            }
            Err(failure) if failure.is_fatal() => Err(failure),
            Err(failure) => {
                tracing::warn!(error = %failure, "save the position again; nothing is confirmed meanwhile");
                let error = failure.to_string();
                self.status.trouble(SAVING, State::Retrying { what: "save the position".into(), error });
                self.safe.get_or_insert(position);
                sleep(REOPEN_FIRST).await;
                Ok(())
            }
        }
    }

    /// Tells the source what is saved; what it cannot take now is offered again on the tick.
    async fn confirm(&mut self, confirm: &dyn Confirm) -> Result<(), Failure> {
        let Some(position) = self.unconfirmed.take() else { return Ok(()) };
        match confirm.confirm(&position).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_fatal() => Err(failure),
            Err(failure) => {
                tracing::warn!(error = %failure, "confirm later: the position is saved");
                self.unconfirmed = Some(position);
                Ok(())
            }
        }
    }

    /// All is settled and saved. When leaving for good, an only lane that holds is not waited for: it would be in vain.
    fn drained(&self, leaving: bool) -> bool {
        self.safe.is_none() && (self.ledger.is_empty() || (leaving && self.work.len() == 1 && self.held))
    }

    /// Closes the lanes; what they still hold is published again at the next start.
    async fn leave(mut self) -> Result<(), Failure> {
        self.work.clear();
        if self.ledger.is_empty() {
            let goodbye = async { while self.lanes.join_next().await.is_some() {} };
            drop(tokio::time::timeout(Duration::from_secs(1), goodbye).await);
        }
        self.lanes.abort_all();
        self.status.set_state(State::Stopped);
        Ok(())
    }
}

fn save(checkpoints: Arc<dyn Checkpoints>, position: Position) -> BoxFuture<'static, (Position, Result<(), Failure>)> {
    Box::pin(async move {
        let outcome = checkpoints.save(&position).await;
        (position, outcome)
    })
}

/// Resolves when a lane failed for good; a panic in one is ours too.
async fn lane_failure(lanes: &mut JoinSet<Result<(), Failure>>) -> Failure {
    loop {
        match lanes.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(failure))) => return failure,
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            None => std::future::pending().await,
        }
    }
}
