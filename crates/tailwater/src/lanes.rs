//! Order and re-sending: a lane is one ordered path to the broker, kept alive over any number of publishers.
//!
//! A publisher that failed is dropped; a new one gets everything unsettled again, in order. So a sink stays small and
//! cannot reorder. A lane never decides what may be confirmed: it reports what is settled, the ledger draws the line.
//!
//! ```text
//!   seq:   settled ........ pushed ........ enqueued
//!            │  in flight ≤ window │  waiting  │
//!   front ──▶[ item | item | item | item | item ]◀── work channel
//! ```
//!
//! A refused message is *resolved* before anything behind it is pushed on a new publisher: by a dead letter, or by holding
//! and offering it alone, again and again, until the broker takes it.

use crate::config::OnRejected;
use crate::metrics::{State, Status};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tailwater_core::ledger::EntryId;
use tailwater_core::{Failure, HeaderValue, Message, Publisher, Settled, Sink, Slice};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Header that says why a message is a dead letter.
pub const REASON_HEADER: &str = "x-tailwater-reason";

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const HOLD_FIRST: Duration = Duration::from_millis(500);
const HOLD_MAX: Duration = Duration::from_secs(5);

/// Messages for one lane, all of one ledger entry.
#[derive(Debug)]
pub struct Work {
    pub entry: EntryId,
    pub slice: Slice,
    /// Commit time of the transaction, µs since 1970, for the latency histogram.
    pub commit_us: i64,
    /// The router refused this event: the slice holds one raw message, only ever good for dead letters.
    pub refused: Option<String>,
}

/// So many more messages of the entry are settled.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub entry: EntryId,
    pub count: usize,
}

/// What a lane is made of.
pub struct LaneSetup {
    pub index: u32,
    pub sink: Arc<dyn Sink>,
    /// Where refused messages go; `None`: hold.
    pub dead_letters: Option<Arc<dyn Sink>>,
    pub on_rejected: OnRejected,
    /// Unconfirmed messages at most; 1 is strict order.
    pub window: usize,
    pub status: Arc<Status>,
}

struct Item {
    work: Work,
    /// Sequence number of its first message.
    first: u64,
    /// Settled messages, from its front.
    settled: usize,
}

impl Item {
    fn end(&self) -> u64 {
        self.first + self.work.slice.messages.len() as u64
    }
}

pub struct Lane {
    setup: LaneSetup,
    work: mpsc::UnboundedReceiver<Work>,
    reports: mpsc::UnboundedSender<Report>,
    items: VecDeque<Item>,
    /// All sequence numbers below are settled.
    settled: u64,
    /// All below were handed to the current publisher, or are settled.
    pushed: u64,
    enqueued: u64,
    /// The highest `pushed` of any publisher: what lies below is sent once more.
    pushed_ever: u64,
    /// Item that holds sequence number `pushed`.
    next_item: usize,
    /// `sequence = index of the current publisher + base`.
    base: u64,
    /// Refused and not yet resolved.
    refused: BTreeMap<u64, String>,
    /// Refused, durable as dead letters, not yet settled.
    buried: BTreeSet<u64>,
    /// Below this one message at a time: a publisher failed here without telling which message was to blame.
    cautious_until: u64,
    dead_publisher: Option<Box<dyn Publisher>>,
    retry_delay: Duration,
    troubled: bool,
}

impl Lane {
    pub fn new(setup: LaneSetup, work: mpsc::UnboundedReceiver<Work>, reports: mpsc::UnboundedSender<Report>) -> Self {
        assert!(setup.window > 0, "a lane without a window can never publish");
        Lane {
            setup,
            work,
            reports,
            items: VecDeque::new(),
            settled: 0,
            pushed: 0,
            enqueued: 0,
            pushed_ever: 0,
            next_item: 0,
            base: 0,
            refused: BTreeMap::new(),
            buried: BTreeSet::new(),
            cautious_until: 0,
            dead_publisher: None,
            retry_delay: RETRY_FIRST,
            troubled: false,
        }
    }

    /// Publishes until the work channel is closed and all is settled, or until an operator must act.
    pub async fn run(mut self) -> Result<(), Failure> {
        loop {
            match self.session().await {
                Ok(()) => return Ok(()),
                Err(Failure::Retry { after, source }) => {
                    if self.pushed > self.settled && self.settled <= self.base {
                        self.cautious_until = self.pushed;
                    }
                    let delay = after.unwrap_or(self.retry_delay);
                    self.retry_delay = (self.retry_delay * 2).min(RETRY_MAX);
                    let error = Failure::Retry { after, source }.to_string();
                    tracing::warn!(lane = self.setup.index, %error, ?delay, unsettled = self.items.len(), "publish again");
                    self.trouble(State::Retrying { what: "publish".into(), error });
                    sleep(delay).await;
                }
                Err(fatal) => return Err(fatal),
            }
        }
    }

    /// One publisher's life.
    async fn session(&mut self) -> Result<(), Failure> {
        let mut publisher = self.setup.sink.open(self.setup.index).await?;
        self.pushed = self.settled;
        self.base = self.settled;
        self.next_item = 0;
        if self.troubled && self.refused.is_empty() {
            self.recovered();
        }
        loop {
            if !self.resolve_front(&mut publisher).await? {
                return Err(Failure::Retry { after: Some(Duration::ZERO), source: "resume after a refusal".into() });
            }
            self.fill(publisher.as_mut());
            if self.items.is_empty() && self.work.is_closed() && self.work.is_empty() {
                publisher.close().await;
                return Ok(());
            }
            tokio::select! {
                biased;
                // 1. results first: they make room
                settled = publisher.drive() => self.absorb(settled?, publisher.as_mut()).await?,
                // 2. new work
                work = self.work.recv() => match work {
                    Some(work) => self.enqueue(work),
                    None if self.items.is_empty() => {}
                    None => { let settled = publisher.drive().await?; self.absorb(settled, publisher.as_mut()).await? }
                },
            }
        }
    }

    fn enqueue(&mut self, work: Work) {
        let mut next = Some(work);
        while let Some(work) = next {
            let first = self.enqueued;
            self.enqueued += work.slice.messages.len() as u64;
            if let Some(reason) = &work.refused {
                assert_eq!(work.slice.messages.len(), 1, "a refused event travels alone");
                self.refused.insert(first, reason.clone());
            }
            self.items.push_back(Item { work, first, settled: 0 });
            next = self.work.try_recv().ok();
        }
    }

    /// Pushes what the window allows, never past an unresolved refusal.
    fn fill(&mut self, publisher: &mut dyn Publisher) {
        let window = if self.settled < self.cautious_until { 1 } else { self.setup.window } as u64;
        let refused = self.refused.first_key_value().map(|(seq, _)| *seq);
        let buried = self.buried.iter().find(|seq| **seq >= self.pushed).copied();
        let end = [refused, buried].into_iter().flatten().min().unwrap_or(u64::MAX).min(self.enqueued);
        while self.pushed < end && self.pushed - self.settled < window {
            let item = &self.items[self.next_item];
            let from = (self.pushed - item.first) as usize;
            let room = (window - (self.pushed - self.settled)).min(end - self.pushed) as usize;
            let count = room.min(item.work.slice.messages.len() - from);
            let slice = if count == item.work.slice.messages.len() {
                item.work.slice.clone()
            } else {
                let whole = from + count == item.work.slice.messages.len();
                Slice {
                    messages: item.work.slice.messages[from..from + count].into(),
                    upto: item.work.slice.upto.clone().filter(|_| whole),
                }
            };
            if from + count == item.work.slice.messages.len() {
                self.next_item += 1;
            }
            let again = self.pushed_ever.saturating_sub(self.pushed).min(count as u64);
            self.setup.status.resent.fetch_add(again, Relaxed);
            self.pushed += count as u64;
            self.pushed_ever = self.pushed_ever.max(self.pushed);
            publisher.push(slice);
        }
    }

    /// Takes in what a publisher reported.
    async fn absorb(&mut self, report: Settled, publisher: &mut dyn Publisher) -> Result<(), Failure> {
        assert!(report.durable as u64 <= self.pushed - self.settled, "more durable than was pushed");
        self.settle(report.durable);
        if report.durable > 0 {
            self.retry_delay = RETRY_FIRST;
        }
        for rejection in report.rejected {
            let seq = rejection.index + self.base;
            assert!(seq >= self.settled && seq < self.pushed, "a rejection names a message in flight");
            self.setup.status.rejected.fetch_add(1, Relaxed);
            if self.buries() {
                let message = self.message(seq).clone();
                self.bury(seq, &message, &rejection.reason).await?;
                publisher.release(rejection.index);
            } else {
                let message = self.message(seq);
                let (event, topic) = (message.id.to_string(), message.topic.to_string());
                self.trouble(State::Held { event, topic, reason: rejection.reason.clone() });
                self.refused.insert(seq, rejection.reason);
            }
        }
        Ok(())
    }

    fn buries(&self) -> bool {
        self.setup.on_rejected == OnRejected::DeadLetter && self.setup.dead_letters.is_some()
    }

    fn message(&self, seq: u64) -> &Message {
        let item = self.items.iter().find(|item| seq < item.end()).expect("an unsettled sequence number has an item");
        &item.work.slice.messages[(seq - item.first) as usize]
    }

    /// `count` messages from the front are settled.
    fn settle(&mut self, mut count: usize) {
        while count > 0 {
            let item = self.items.front_mut().expect("only what was enqueued is settled");
            let taken = count.min(item.work.slice.messages.len() - item.settled);
            let end = self.settled + taken as u64;
            let buried = self.buried.range(self.settled..end).count();
            self.buried = self.buried.split_off(&end);
            self.settled = end;
            item.settled += taken;
            count -= taken;
            self.setup.status.record_published((taken - buried) as u64, item.work.commit_us);
            // the loop may be gone (crash, deadline): then nobody confirms anything any more
            drop(self.reports.send(Report { entry: item.work.entry, count: taken }));
            if item.settled == item.work.slice.messages.len() {
                self.items.pop_front();
                self.next_item = self.next_item.saturating_sub(1);
            }
        }
    }

    /// Resolves refusals at the front of the queue. False: the publisher is not usable any more, open another.
    async fn resolve_front(&mut self, publisher: &mut Box<dyn Publisher>) -> Result<bool, Failure> {
        loop {
            let front = self.settled;
            let on_publisher = front < self.pushed;
            if self.buried.contains(&front) && !on_publisher {
                self.skip_front();
                continue;
            }
            let Some(reason) = self.refused.get(&front).cloned() else { return Ok(true) };
            let message = self.message(front).clone();
            let by_router = self.items.front().is_some_and(|item| item.work.refused.is_some());
            if self.buries() {
                self.bury(front, &message, &reason).await?;
                self.refused.remove(&front);
                assert!(!on_publisher, "what a publisher refused is buried when it says so");
                self.skip_front();
                continue;
            }
            let state = State::Held { event: message.id.to_string(), topic: message.topic.to_string(), reason };
            tracing::error!(lane = self.setup.index, event = %message.id, "hold at a refused event");
            self.trouble(state);
            if by_router {
                let mut alive = true;
                loop {
                    idle(publisher.as_mut(), &mut alive, HOLD_MAX).await; // only another configuration helps: a restart
                }
            }
            self.offer_until_taken(publisher, message.clone()).await?;
            self.refused.remove(&front);
            self.forgive(&message.topic);
            self.settle(1);
            self.recovered();
            return Ok(false);
        }
    }

    /// What kept this topic's messages out is gone, most likely for all of them: they are offered again together, not one by one.
    fn forgive(&mut self, topic: &str) {
        let mut refused = std::mem::take(&mut self.refused);
        refused.retain(|seq, _| {
            let item = self.items.iter().find(|item| *seq < item.end()).expect("what was refused is unsettled");
            item.work.refused.is_some() || *item.work.slice.messages[(*seq - item.first) as usize].topic != *topic
        });
        self.refused = refused;
    }

    /// The front message is settled without this publisher: later indexes move by one.
    fn skip_front(&mut self) {
        assert_eq!(self.pushed, self.settled, "everything before the front is settled, nothing behind it was pushed");
        self.settle(1);
        self.pushed = self.settled;
        self.base += 1;
    }

    /// Offers one refused message alone, through new publishers, until it is durable.
    async fn offer_until_taken(&mut self, publisher: &mut Box<dyn Publisher>, message: Message) -> Result<(), Failure> {
        let mut delay = HOLD_FIRST;
        let alone: Arc<[Message]> = Arc::new([message.clone()]);
        let mut alive = true;
        loop {
            idle(publisher.as_mut(), &mut alive, delay).await;
            delay = (delay * 2).min(HOLD_MAX);
            let error = match self.setup.sink.open(self.setup.index).await {
                Ok(fresh) => {
                    *publisher = fresh;
                    publisher.push(Slice { messages: alone.clone(), upto: None });
                    let verdict = one_verdict(publisher.as_mut()).await;
                    alive = verdict.is_ok();
                    match verdict {
                        Ok(None) => return Ok(()),
                        Ok(Some(reason)) => {
                            let (event, topic) = (message.id.to_string(), message.topic.to_string());
                            self.trouble(State::Held { event, topic, reason });
                            continue;
                        }
                        Err(failure) => failure,
                    }
                }
                Err(failure) => failure,
            };
            if error.is_fatal() {
                return Err(error);
            }
            self.trouble(State::Retrying { what: "publish".into(), error: error.to_string() });
        }
    }

    /// Makes a refused message durable as a dead letter, however long it takes.
    async fn bury(&mut self, seq: u64, message: &Message, reason: &str) -> Result<(), Failure> {
        let sink = self.setup.dead_letters.clone().expect("buries() was asked");
        let mut letter = message.clone();
        letter.headers.push(REASON_HEADER, HeaderValue::Text(reason.to_owned().into()));
        let alone: Arc<[Message]> = Arc::new([letter]);
        let mut delay = RETRY_FIRST;
        loop {
            let outcome = match self.dead_publisher.take() {
                Some(publisher) => Ok(publisher),
                None => sink.open(self.setup.index).await,
            };
            let verdict = match outcome {
                Ok(mut publisher) => {
                    publisher.push(Slice { messages: alone.clone(), upto: None });
                    let verdict = one_verdict(publisher.as_mut()).await;
                    if matches!(verdict, Ok(None)) {
                        self.dead_publisher = Some(publisher);
                    }
                    verdict
                }
                Err(failure) => Err(failure),
            };
            match verdict {
                Ok(None) => break,
                Ok(Some(refusal)) => self.trouble(State::Held {
                    event: message.id.to_string(),
                    topic: message.topic.to_string(),
                    reason: format!("{reason}; and the dead-letter exchange refused it too: {refusal}"),
                }),
                Err(failure) if failure.is_fatal() => return Err(failure),
                Err(failure) => {
                    self.trouble(State::Retrying { what: "publish dead letter".into(), error: failure.to_string() })
                }
            }
            sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
        self.buried.insert(seq);
        self.setup.status.dead_lettered.fetch_add(1, Relaxed);
        self.recovered();
        tracing::warn!(lane = self.setup.index, event = %message.id, "event went to the dead letters");
        Ok(())
    }

    fn trouble(&mut self, state: State) {
        self.troubled = true;
        self.setup.status.trouble(self.setup.index, state);
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.troubled) {
            self.setup.status.recovered(self.setup.index);
        }
    }
}

/// Keeps a connection alive for a while; what it reports does not matter any more. Once it broke it is left alone (P5).
async fn idle(publisher: &mut dyn Publisher, alive: &mut bool, duration: Duration) {
    let until = Instant::now() + duration;
    if *alive {
        let broken = async { while publisher.drive().await.is_ok() {} };
        *alive = timeout_at(until, broken).await.is_err();
    }
    sleep_until(until).await;
}

/// Waits for the one message in flight: `None` = durable, `Some(reason)` = refused.
async fn one_verdict(publisher: &mut dyn Publisher) -> Result<Option<String>, Failure> {
    loop {
        let settled = publisher.drive().await?;
        if let Some(rejection) = settled.rejected.into_iter().next() {
            return Ok(Some(rejection.reason));
        }
        if settled.durable > 0 {
            return Ok(None);
        }
    }
}
