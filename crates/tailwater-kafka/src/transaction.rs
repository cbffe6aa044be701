//! The publisher of an exactly-once pipeline: messages and position become visible together, or not at all.
//!
//! ```text
//!            first message             nothing more waits, or enough          all delivered
//!   idle ───────────────────▶ open ──────────────────────────────▶ closing ─────────────────▶ committing ──▶ idle
//!     └─ a position alone ──────────────────────────────────────────▲                              └ reported
//! ```
//! A message is durable when its transaction is. Nothing is sent past a refused message. What fails ends the publisher: the
//! next one's fence aborts what was open, or finds it committed.

use crate::exactly_once::{ExactlyOnce, POSITION_INDEX, Passed, Request, Skips, blocking, commit, take};
use crate::failure::{KafkaProblem, blames_message, classify, rejection};
use crate::outlet::{Backlog, Outlet, Sent};
use crate::positions::fingerprint;
use crate::producer::is_echo;
use crate::window::Window;
use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::Producer as _;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tailwater_core::{Failure, Publisher, Rejection, Settled, Slice};
use tokio::time::Instant;

/// A transaction ends at the end of a slice once it holds so much, bytes; inside a slice at four times as much.
const ENOUGH_BYTES: usize = 4 << 20;
const SPLIT_BYTES: usize = 4 * ENOUGH_BYTES;
/// What is still expected to be pushed again after so many messages will not come.
const SKIPS_END: u64 = 100_000;

type Commit = Pin<Box<dyn Future<Output = Result<(), KafkaProblem>> + Send>>;

enum Phase {
    Idle,
    /// Since its first message.
    Open {
        since: Instant,
        bytes: usize,
    },
    /// Nothing more goes in; deliveries are awaited.
    Closing,
    Committing(Commit),
}

pub struct TransactionalPublisher {
    outlet: Outlet,
    once: Arc<ExactlyOnce>,
    /// A later claim makes this publisher useless.
    claim: u64,
    backlog: Backlog,
    window: Window,
    phase: Phase,
    /// Records of the open transaction that are not delivered yet, the position among them.
    undelivered: usize,
    /// Fingerprints of the messages in the open transaction.
    sent: Vec<u64>,
    /// Published, and expected to be pushed again.
    skip: Skips,
    /// Skipped and not yet reported: index, fingerprint.
    skipped: VecDeque<(u64, u64)>,
    /// Published, or in the open transaction, behind `position`.
    behind: Vec<u64>,
    /// Ends of slices since the last transaction.
    passed: Vec<Passed>,
    /// The latest position that all messages before are sent for.
    position: Option<String>,
    /// A refused message that was not released: nothing passes it.
    blocked: Option<u64>,
    request: Option<Request>,
    rejected: Vec<Rejection>,
    failed: Option<KafkaProblem>,
    dead: bool,
}

impl TransactionalPublisher {
    pub fn new(outlet: Outlet, once: Arc<ExactlyOnce>, claim: u64) -> Self {
        let (skip, behind) = once.outset();
        once.serve();
        TransactionalPublisher {
            outlet,
            claim,
            backlog: Backlog::default(),
            window: Window::default(),
            phase: Phase::Idle,
            undelivered: 0,
            sent: vec![],
            skip,
            skipped: VecDeque::new(),
            behind,
            passed: vec![],
            position: once.known_position(),
            blocked: None,
            request: None,
            rejected: vec![],
            failed: None,
            dead: false,
            once,
        }
    }

    /// Puts into the transaction what may travel now.
    fn fill(&mut self) -> Result<(), KafkaProblem> {
        while self.backlog.waits() && self.blocked.is_none() && !self.full() {
            let index = self.backlog.next;
            let (slice, offset) = self.backlog.find(index);
            let slice = slice.clone();
            let message = &slice.messages[offset];
            let print = fingerprint(message);
            if !self.skip.is_empty() && take(&mut self.skip, print) {
                self.window.skip(index);
                self.skipped.push_back((index, print));
                self.behind.push(print);
            } else {
                self.begin()?;
                match self.outlet.send(message, index, self.undelivered, &self.backlog)? {
                    Sent::Yes => {
                        self.window.sent(index);
                        self.undelivered += 1;
                        self.sent.push(print);
                        self.behind.push(print);
                        if let Phase::Open { since, bytes } = &mut self.phase {
                            *since = if self.sent.len() == 1 { Instant::now() } else { *since };
                            *bytes += message.size_bytes();
                        }
                    }
                    Sent::No(reason) => {
                        self.window.reject(index);
                        self.rejected.push(Rejection { index, id: message.id.clone(), reason });
                        self.blocked = Some(index);
                        return Ok(()); // its end of slice is passed when it is released
                    }
                    Sent::Wait => return Ok(()),
                }
            }
            self.backlog.next += 1;
            self.pass_end_of_slice(&slice, offset);
        }
        Ok(())
    }

    /// Behind the last message of a slice the source's position may be stored.
    fn pass_end_of_slice(&mut self, slice: &Slice, offset: usize) {
        if offset + 1 == slice.messages.len()
            && let Some(upto) = &slice.upto
        {
            self.position = Some(upto.as_str().to_owned());
            self.passed.push((upto.as_str().to_owned(), std::mem::take(&mut self.behind)));
        }
        if !self.skip.is_empty() && self.backlog.next > SKIPS_END {
            self.skip.clear();
            self.once.forget_skips();
        }
    }

    fn begin(&mut self) -> Result<(), KafkaProblem> {
        if matches!(self.phase, Phase::Idle) {
            let native = &self.outlet.producer.native;
            native.begin_transaction().map_err(KafkaProblem::call("begin a transaction"))?;
            self.phase = Phase::Open { since: Instant::now(), bytes: 0 };
        }
        Ok(())
    }

    fn full(&self) -> bool {
        match &self.phase {
            Phase::Idle => false,
            Phase::Open { .. } if self.sent.is_empty() => false,
            Phase::Open { since, bytes } => {
                let limit = self.outlet.shared.config.transaction_interval;
                let enough = *bytes >= ENOUGH_BYTES || since.elapsed() >= limit;
                (enough && self.behind.is_empty()) || *bytes >= SPLIT_BYTES || since.elapsed() >= limit * 10
            }
            Phase::Closing | Phase::Committing(_) => true,
        }
    }

    /// Moves the transaction on; true: something changed.
    fn advance(&mut self) -> Result<bool, KafkaProblem> {
        match &self.phase {
            Phase::Open { .. } if !self.sent.is_empty() => {
                let closes = !self.backlog.waits() || self.blocked.is_some() || self.full();
                if closes {
                    self.close()?;
                }
                Ok(closes)
            }
            Phase::Idle | Phase::Open { .. } => self.serve(),
            Phase::Closing if self.undelivered == 0 => {
                let native = self.outlet.producer.native.clone();
                let commit = blocking("commit a transaction", move || commit(&native));
                self.phase = Phase::Committing(Box::pin(commit));
                Ok(true)
            }
            Phase::Closing | Phase::Committing(_) => Ok(false),
        }
    }

    /// Saves a position that no message carries, between two transactions.
    fn serve(&mut self) -> Result<bool, KafkaProblem> {
        let Some(request) = self.once.request() else { return Ok(false) };
        let position = request.position.as_ref().map(|position| position.as_str());
        let Some(published) = self.once.behind(position, &mut self.passed) else {
            drop(request.answer.send(Ok(()))); // who asked may be gone
            return Ok(true);
        };
        self.position = position.map(str::to_owned);
        self.behind.splice(..0, published);
        self.request = Some(request);
        self.begin()?;
        self.close()?;
        Ok(true)
    }

    /// The position goes in last.
    fn close(&mut self) -> Result<(), KafkaProblem> {
        let unmatched = self.skip.iter().flat_map(|(print, count)| std::iter::repeat_n(*print, *count as usize));
        let after: Vec<u64> = self.behind.iter().copied().chain(unmatched).collect();
        let (sent, passed) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.passed));
        let record = self.once.attempt(self.position.clone(), &after, sent, passed);
        self.once.send_position(&self.outlet.producer, Some(&record))?;
        self.undelivered += 1;
        self.phase = Phase::Closing;
        Ok(())
    }

    fn committed(&mut self, outcome: Result<(), KafkaProblem>) {
        self.phase = Phase::Idle;
        match outcome {
            Ok(()) => {
                self.once.committed();
                self.window.store_open();
                if let Some(request) = self.request.take() {
                    drop(request.answer.send(Ok(()))); // who asked may be gone
                }
            }
            Err(problem) => drop(self.failed.get_or_insert(problem)),
        }
    }

    /// Takes in what the client library reported.
    fn absorb(&mut self) {
        let (deliveries, broken) = self.outlet.deliveries();
        for (index, outcome) in deliveries {
            self.undelivered = self.undelivered.saturating_sub(1);
            if let Some(code) = outcome {
                self.refused(index, code);
            }
        }
        if broken && self.failed.as_ref().is_none_or(KafkaProblem::is_echo) {
            self.failed = self.outlet.broken();
        }
        if self.claim != self.once.claim_number() {
            self.failed = Some(KafkaProblem::NewClaim);
        }
    }

    fn refused(&mut self, index: usize, code: Code) {
        if index == POSITION_INDEX {
            self.failed.get_or_insert(KafkaProblem::Call { doing: "store the position", code });
            return;
        }
        let (slice, offset) = self.backlog.find(index as u64);
        let message = &slice.messages[offset];
        let topic = self.outlet.topic_of(message);
        let alone = self.window.open() == 1 && !self.backlog.waits();
        if blames_message(code) && alone && self.failed.is_none() {
            let reason = rejection(code, topic, &self.outlet.shared.identity);
            self.rejected.push(Rejection { index: index as u64, id: message.id.clone(), reason });
            self.window.reject(index as u64);
            self.blocked = Some(index as u64);
            self.failed = Some(KafkaProblem::OneRefused(code));
        } else if self.failed.as_ref().is_none_or(KafkaProblem::is_echo) && !(self.failed.is_some() && is_echo(code)) {
            self.failed = Some(KafkaProblem::Delivery { topic: topic.to_string(), code });
        }
    }

    fn report(&mut self) -> Option<Settled> {
        let durable = self.window.take_durable();
        self.backlog.settle(durable);
        let settled = self.backlog.settled();
        let reported = self.skipped.iter().take_while(|(index, _)| *index < settled).count();
        if reported > 0 {
            self.once.reported(self.skipped.drain(..reported).map(|(_, print)| print));
        }
        (durable > 0 || !self.rejected.is_empty())
            .then(|| Settled { durable, rejected: std::mem::take(&mut self.rejected) })
    }

    async fn wait(&mut self) -> Result<(), KafkaProblem> {
        let needed = self.backlog.waits();
        if let Phase::Committing(commit) = &mut self.phase {
            // the outlet is watched too: its deliveries may say why a commit fails
            tokio::select! {
                outcome = commit => self.committed(outcome),
                waited = self.outlet.wait(false) => return waited,
            }
            return Ok(());
        }
        tokio::select! {
            waited = self.outlet.wait(needed) => waited,
            _ = self.once.asked.notified() => Ok(()),
        }
    }
}

#[async_trait]
impl Publisher for TransactionalPublisher {
    fn push(&mut self, slice: Slice) {
        self.window.push(slice.messages.len());
        self.backlog.push(slice);
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.dead {
            return Err(Failure::retry("this publisher has failed and is to be dropped"));
        }
        loop {
            self.absorb();
            let mut moved = false;
            if self.failed.is_none() {
                match self.fill().and_then(|()| self.advance()) {
                    Ok(changed) => moved = changed,
                    Err(problem) => self.failed = Some(problem),
                }
                self.outlet.refresh();
            }
            if let Some(settled) = self.report() {
                return Ok(settled);
            }
            if let Some(problem) = self.failed.take() {
                self.dead = true;
                return Err(classify(problem, &self.outlet.shared.identity));
            }
            if !moved {
                self.failed = self.wait().await.err();
            }
        }
    }

    fn release(&mut self, index: u64) {
        self.window.release(index);
        if self.blocked == Some(index) {
            self.blocked = None;
            if self.backlog.next == index {
                let (slice, offset) = self.backlog.find(index);
                let slice = slice.clone();
                self.backlog.next += 1;
                self.pass_end_of_slice(&slice, offset);
            }
        }
    }
}

impl Drop for TransactionalPublisher {
    fn drop(&mut self) {
        self.once.leave();
    }
}
