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
use crate::failure::KafkaProblem;
use crate::flight::Flight;
use crate::outlet::{Outlet, Sent};
use crate::positions::fingerprint;
use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::Producer as _;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tailwater_core::{Failure, Publisher, Settled, Slice};
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
    flight: Flight,
    once: Arc<ExactlyOnce>,
    /// A later claim makes this publisher useless.
    claim: u64,
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
}

impl TransactionalPublisher {
    pub fn new(outlet: Outlet, once: Arc<ExactlyOnce>, claim: u64) -> Self {
        let (skip, behind) = once.outset();
        once.serve();
        TransactionalPublisher {
            flight: Flight::new(outlet),
            claim,
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
            once,
        }
    }

    /// Puts into the transaction what may travel now.
    fn fill(&mut self) -> Result<(), KafkaProblem> {
        while self.flight.backlog.waits() && self.blocked.is_none() && !self.full() {
            let index = self.flight.backlog.next;
            let (slice, offset) = self.flight.backlog.find(index);
            let slice = slice.clone();
            let message = &slice.messages[offset];
            let print = fingerprint(message);
            if !self.skip.is_empty() && take(&mut self.skip, print) {
                self.flight.window.skip(index);
                self.skipped.push_back((index, print));
                self.behind.push(print);
            } else {
                self.begin()?;
                match self.flight.outlet.send(message, index, self.undelivered, &self.flight.backlog)? {
                    Sent::Yes => {
                        self.flight.window.sent(index);
                        self.undelivered += 1;
                        self.sent.push(print);
                        self.behind.push(print);
                        if let Phase::Open { since, bytes } = &mut self.phase {
                            *since = if self.sent.len() == 1 { Instant::now() } else { *since };
                            *bytes += message.size_bytes();
                        }
                    }
                    Sent::No(reason) => {
                        self.flight.reject(index, message.id.clone(), reason);
                        self.blocked = Some(index);
                        return Ok(()); // its end of slice is passed when it is released
                    }
                    Sent::Wait => return Ok(()),
                }
            }
            self.flight.backlog.next += 1;
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
        if !self.skip.is_empty() && self.flight.backlog.next > SKIPS_END {
            self.skip.clear();
            self.once.forget_skips();
        }
    }

    fn begin(&mut self) -> Result<(), KafkaProblem> {
        if matches!(self.phase, Phase::Idle) {
            let native = &self.flight.outlet.producer.native;
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
                let limit = self.flight.outlet.shared.config.transaction_interval;
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
                let closes = !self.flight.backlog.waits() || self.blocked.is_some() || self.full();
                if closes {
                    self.close()?;
                }
                Ok(closes)
            }
            Phase::Idle | Phase::Open { .. } => self.serve(),
            Phase::Closing if self.undelivered == 0 => {
                let native = self.flight.outlet.producer.native.clone();
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
        self.once.send_position(&self.flight.outlet.producer, Some(&record))?;
        self.undelivered += 1;
        self.phase = Phase::Closing;
        Ok(())
    }

    fn committed(&mut self, outcome: Result<(), KafkaProblem>) {
        self.phase = Phase::Idle;
        match outcome {
            Ok(()) => {
                self.once.committed();
                self.flight.window.store_open();
                if let Some(request) = self.request.take() {
                    drop(request.answer.send(Ok(()))); // who asked may be gone
                }
            }
            Err(problem) => drop(self.flight.failed.get_or_insert(problem)),
        }
    }

    /// Takes in what the client library reported.
    fn absorb(&mut self) {
        let (deliveries, broken) = self.flight.outlet.deliveries();
        for (index, outcome) in deliveries {
            self.undelivered = self.undelivered.saturating_sub(1);
            if let Some(code) = outcome {
                self.refused(index, code);
            }
        }
        if broken {
            self.flight.broken();
        }
        if self.claim != self.once.claim_number() {
            self.flight.failed = Some(KafkaProblem::NewClaim);
        }
    }

    fn refused(&mut self, index: usize, code: Code) {
        if index == POSITION_INDEX {
            self.flight.failed.get_or_insert(KafkaProblem::Call { doing: "store the position", code });
            return;
        }
        if self.flight.refused(index as u64, code) {
            self.blocked = Some(index as u64);
        }
    }

    fn report(&mut self) -> Option<Settled> {
        let report = self.flight.report();
        let settled = self.flight.backlog.settled();
        let reported = self.skipped.iter().take_while(|(index, _)| *index < settled).count();
        if reported > 0 {
            self.once.reported(self.skipped.drain(..reported).map(|(_, print)| print));
        }
        report
    }

    async fn wait(&mut self) -> Result<(), KafkaProblem> {
        let needed = self.flight.backlog.waits();
        if let Phase::Committing(commit) = &mut self.phase {
            // the outlet is watched too: its deliveries may say why a commit fails
            tokio::select! {
                outcome = commit => self.committed(outcome),
                waited = self.flight.outlet.wait(false) => return waited,
            }
            return Ok(());
        }
        tokio::select! {
            waited = self.flight.outlet.wait(needed) => waited,
            _ = self.once.asked.notified() => Ok(()),
        }
    }
}

#[async_trait]
impl Publisher for TransactionalPublisher {
    fn push(&mut self, slice: Slice) {
        self.flight.push(slice);
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        self.flight.alive()?;
        loop {
            self.absorb();
            let mut moved = false;
            if self.flight.failed.is_none() {
                match self.fill().and_then(|()| self.advance()) {
                    Ok(changed) => moved = changed,
                    Err(problem) => self.flight.failed = Some(problem),
                }
                self.flight.outlet.refresh();
            }
            if let Some(settled) = self.report() {
                return Ok(settled);
            }
            self.flight.end()?;
            if !moved {
                self.flight.failed = self.wait().await.err();
            }
        }
    }

    fn release(&mut self, index: u64) {
        self.flight.window.release(index);
        if self.blocked == Some(index) {
            self.blocked = None;
            if self.flight.backlog.next == index {
                let (slice, offset) = self.flight.backlog.find(index);
                let slice = slice.clone();
                self.flight.backlog.next += 1;
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
