//! What an exactly-once pipeline knows of its own transactions: which position the topic holds, which transaction is in doubt,
//! which messages are published although they will be pushed again.
//!
//! ```text
//!   claim ──init transactions (fences whoever wrote before), read──▶ known
//!   publisher: known ──begin, messages + position, commit──▶ known'
//!              commit without an answer ──▶ attempted ──init, read──▶ known or known'
//! ```
//! The source is the lock: only who holds the slot claims. `transactional.id` is the fence: who was overtaken cannot commit.

use crate::failure::KafkaProblem;
use crate::outlet::Shared;
use crate::positions::{Positions, Stored, VERSION};
use crate::producer::{self, Producer};
use async_trait::async_trait;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tailwater_core::{Checkpoints, Failure, Position};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

/// The coordinator gives a transaction up after so long.
pub const TRANSACTION_LIMIT: Duration = Duration::from_secs(60);
/// One blocking call lasts at most so long before it is repeated.
const CALL: Duration = Duration::from_secs(5);
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// Marks the delivery of a position among those of messages.
pub const POSITION_INDEX: usize = usize::MAX;

/// Fingerprints, each as often as it is expected.
pub type Skips = HashMap<u64, u32>;

/// A slice whose end was passed: where the source stands then, and what was published since the slice before.
pub type Passed = (String, Vec<u64>);

/// A transaction whose commit was asked for.
#[derive(Debug)]
struct Attempt {
    stored: Stored,
    sent: Vec<u64>,
    passed: Vec<Passed>,
}

/// What somebody wants written without any message.
pub struct Request {
    pub position: Option<Position>,
    pub answer: oneshot::Sender<Result<(), KafkaProblem>>,
}

#[derive(Default)]
struct State {
    /// What the topic holds, as far as we know.
    known: Option<Stored>,
    attempted: Option<Attempt>,
    /// Published, and to be pushed again.
    skip: Skips,
    /// Ends of slices, committed, that nobody has asked to save yet: a saved position may lie before or behind them.
    recent: VecDeque<Passed>,
    /// Claimed, for the next publisher.
    ready: Option<Producer>,
    transactions: u64,
    request: Option<Request>,
    /// Publishers that serve requests.
    serving: u32,
}

/// Shared by the publisher and the checkpoints of one pipeline.
pub struct ExactlyOnce {
    shared: Arc<Shared>,
    pub positions: Positions,
    id: String,
    /// Tells the transactions of this run from those of others.
    run: String,
    state: Mutex<State>,
    /// How often the pipeline was claimed; 0: not yet.
    claims: watch::Sender<u64>,
    pub asked: Notify,
}

impl ExactlyOnce {
    pub fn new(shared: Arc<Shared>, pipeline: &str, id: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let positions = Positions {
            config: shared.config.clone(),
            identity: shared.identity.clone(),
            pipeline: pipeline.to_owned(),
            seen: AtomicBool::new(false),
        };
        let run = format!("{:x}-{:x}", now.as_nanos(), std::process::id());
        let (claims, asked, state) = (watch::Sender::new(0), Notify::new(), Mutex::default());
        ExactlyOnce { shared, positions, id, run, state, claims, asked }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    /// Reads the position on a thread of its own, see [`Positions::read`].
    async fn read(self: &Arc<Self>, certain: bool) -> Result<Option<Stored>, KafkaProblem> {
        let (this, runtime) = (self.clone(), Handle::current());
        blocking("read the position", move || this.positions.read(&runtime, certain)).await
    }

    /// A producer that has fenced all earlier ones of this transactional id; transactions they left are ended.
    async fn fence(self: &Arc<Self>) -> Result<Producer, KafkaProblem> {
        let (config, observer) = (self.shared.config.clone(), self.shared.observer.clone());
        let batch = self.shared.batch_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let producer = producer::transactional(&config, batch, &self.id, TRANSACTION_LIMIT, observer).await?;
        let native = producer.native.clone();
        let init = move || {
            again(INIT_LIMIT, || native.init_transactions(CALL)).map_err(KafkaProblem::call("start transactions"))
        };
        blocking("start transactions", init).await?;
        Ok(producer)
    }

    /// The source is held: fences whoever published before, and reads what was published last.
    async fn take_over(self: &Arc<Self>) -> Result<Option<Position>, KafkaProblem> {
        let producer = self.fence().await?;
        let stored = self.read(true).await?;
        let mut state = self.state();
        state.skip = stored.iter().flat_map(Stored::fingerprints).fold(Skips::new(), add);
        state.attempted = None;
        state.recent.clear();
        state.known = stored;
        let previous = state.ready.replace(producer);
        let position = state.known.as_ref().and_then(Stored::position);
        drop(state);
        drop(previous);
        self.claims.send_modify(|claims| *claims += 1);
        Ok(position)
    }

    /// Number of the present claim.
    pub fn claim_number(&self) -> u64 {
        *self.claims.borrow()
    }

    /// A producer for a publisher, fenced and in agreement with the topic. Waits for the first claim.
    pub async fn producer(self: &Arc<Self>) -> Result<(Producer, u64), KafkaProblem> {
        let mut claims = self.claims.subscribe();
        if claims.wait_for(|claims| *claims > 0).await.is_err() {
            return Err(KafkaProblem::Call { doing: "wait for the source", code: Code::Unknown });
        }
        let ready = self.state().ready.take();
        if let Some(producer) = ready {
            self.ask(&producer).await?; // it may be a while since it was claimed
            return Ok((producer, self.claim_number()));
        }
        let claim = self.claim_number();
        let producer = self.fence().await?;
        let stored = self.read(true).await?;
        self.reconcile(stored)?;
        Ok((producer, claim))
    }

    /// K1: the cluster answers now.
    async fn ask(&self, producer: &Producer) -> Result<(), KafkaProblem> {
        let (native, config) = (producer.native.clone(), self.shared.config.clone());
        let ask = move || {
            let answer = native.client().fetch_metadata(Some(&config.offsets_topic), config.connect_timeout);
            answer.map(drop).map_err(KafkaProblem::call("ask the cluster"))
        };
        blocking("ask the cluster", ask).await
    }

    /// After a failure: was the last transaction committed or not? Anything else in the topic is somebody else's.
    fn reconcile(&self, read: Option<Stored>) -> Result<(), KafkaProblem> {
        let mut state = self.state();
        let name = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.transaction.clone());
        let written = name(&read);
        if written == name(&state.known) {
            state.attempted = None;
            return Ok(());
        }
        match state.attempted.take() {
            Some(attempt) if written.as_deref() == Some(&*attempt.stored.transaction) => {
                tracing::info!(
                    messages = attempt.sent.len(),
                    "the transaction in doubt was committed: nothing of it is sent again"
                );
                state.skip = attempt.sent.into_iter().fold(std::mem::take(&mut state.skip), add);
                state.recent.extend(attempt.passed);
                state.known = read;
                Ok(())
            }
            _ => Err(KafkaProblem::Overtaken(self.id.clone())),
        }
    }

    /// What a new publisher begins with: what to skip, and what lies published behind the position besides.
    pub fn outset(&self) -> (Skips, Vec<u64>) {
        let state = self.state();
        let mut skip = state.skip.clone();
        let behind = state.known.iter().flat_map(Stored::fingerprints);
        let behind = behind.filter(|print| !take(&mut skip, *print)).collect();
        (state.skip.clone(), behind)
    }

    pub fn known_position(&self) -> Option<String> {
        self.state().known.as_ref().and_then(|stored| stored.position.clone())
    }

    /// A skipped message was reported: it is not pushed again.
    pub fn reported(&self, prints: impl Iterator<Item = u64>) {
        let mut state = self.state();
        for print in prints {
            take(&mut state.skip, print);
        }
    }

    pub fn forget_skips(&self) {
        self.state().skip.clear();
    }

    /// Notes what is about to be committed, and makes the record of it.
    pub fn attempt(&self, position: Option<String>, after: &[u64], sent: Vec<u64>, passed: Vec<Passed>) -> Vec<u8> {
        let mut state = self.state();
        state.transactions += 1;
        let transaction = format!("{}-{}", self.run, state.transactions);
        let after = after.iter().map(|print| format!("{print:x}")).collect();
        let stored = Stored { version: VERSION, position, after, transaction };
        let record = serde_json::to_vec(&stored).expect("a record is serializable");
        state.attempted = Some(Attempt { stored, sent, passed });
        record
    }

    /// The attempted transaction was committed.
    pub fn committed(&self) {
        let mut state = self.state();
        if let Some(attempt) = state.attempted.take() {
            state.recent.extend(attempt.passed);
            state.known = Some(attempt.stored);
        }
    }

    /// Somebody wants `position` saved. None: the topic holds it, or a later one. Else what is published behind it, as far
    /// as this knows: `passed` are ends of slices, published without a transaction.
    pub fn behind(&self, position: Option<&str>, passed: &mut Vec<Passed>) -> Option<Vec<u64>> {
        let mut state = self.state();
        let at = |(end, _): &Passed| Some(end.as_str()) == position;
        if let Some(found) = state.recent.iter().position(at) {
            state.recent.drain(..=found);
            return None;
        }
        let holds = state.known.as_ref().and_then(|stored| stored.position.as_deref());
        if holds == position && state.recent.is_empty() && passed.is_empty() {
            return None;
        }
        let found = passed.iter().position(at).map_or(0, |found| found + 1);
        let earlier = if found > 0 { VecDeque::new() } else { std::mem::take(&mut state.recent) };
        state.recent.clear();
        Some(earlier.into_iter().chain(passed.drain(..).skip(found)).flat_map(|(_, prints)| prints).collect())
    }

    pub fn request(&self) -> Option<Request> {
        self.state().request.take()
    }

    pub fn serve(&self) {
        self.state().serving += 1;
    }

    pub fn leave(&self) {
        self.state().serving -= 1;
    }

    /// Hands the record of a position to a producer, within its transaction.
    pub fn send_position(&self, producer: &Producer, record: Option<&[u8]>) -> Result<(), KafkaProblem> {
        let key = self.positions.pipeline.as_bytes();
        let mut out: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.shared.config.offsets_topic, POSITION_INDEX);
        out.key = Some(key);
        out.payload = record;
        out.partition = Some(0);
        producer.native.send(out).map_err(|(error, _)| KafkaProblem::call("store the position")(error))
    }

    /// Writes a position without a publisher: while nothing runs.
    async fn write_alone(self: &Arc<Self>, position: Option<&Position>) -> Result<(), KafkaProblem> {
        self.read(false).await?; // makes the topic
        let producer = self.fence().await?;
        producer.native.begin_transaction().map_err(KafkaProblem::call("begin a transaction"))?;
        let record = position.map(|position| self.attempt(Some(position.as_str().to_owned()), &[], vec![], vec![]));
        self.send_position(&producer, record.as_deref())?;
        let native = producer.native.clone();
        blocking("commit", move || commit(&native)).await?;
        self.committed();
        if position.is_none() {
            self.state().known = None;
        }
        Ok(())
    }

    async fn write(self: &Arc<Self>, position: &Position) -> Result<(), KafkaProblem> {
        if self.state().serving == 0 && self.claim_number() == 0 {
            return self.write_alone(Some(position)).await;
        }
        let (answer, written) = oneshot::channel();
        self.state().request = Some(Request { position: Some(position.clone()), answer });
        self.asked.notify_one();
        let gone = KafkaProblem::Call { doing: "store the position", code: Code::Unknown };
        written.await.unwrap_or(Err(gone))
    }
}

fn add(mut skips: Skips, print: u64) -> Skips {
    *skips.entry(print).or_insert(0) += 1;
    skips
}

/// Takes one of a fingerprint away; whether there was one.
pub fn take(skips: &mut Skips, print: u64) -> bool {
    let Some(count) = skips.get_mut(&print) else { return false };
    *count -= 1;
    if *count == 0 {
        skips.remove(&print);
    }
    true
}

/// Commits, however long the brokers take; blocks. Deliveries are in already, or this waits for them.
pub fn commit(native: &producer::Native) -> Result<(), KafkaProblem> {
    again(TRANSACTION_LIMIT * 2, || native.commit_transaction(CALL)).map_err(KafkaProblem::call("commit a transaction"))
}

/// Repeats a call of the transactional producer while repeating may help.
fn again(limit: Duration, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let begin = Instant::now();
    loop {
        let outcome = call();
        let retriable = match &outcome {
            Err(KafkaError::Transaction(error)) => error.is_retriable(),
            Err(KafkaError::Flush(code)) => *code == Code::OperationTimedOut,
            _ => false,
        };
        if !retriable || begin.elapsed() > limit {
            return outcome;
        }
    }
}

/// Runs a blocking call on a thread of its own: the async runtime would wait for it at its end.
pub async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, KafkaProblem> + Send + 'static,
) -> Result<T, KafkaProblem> {
    let (send, receive) = oneshot::channel();
    let run = move || drop(send.send(work()));
    std::thread::Builder::new().name("kafka-call".into()).spawn(run).expect("a thread can be started");
    receive.await.unwrap_or(Err(KafkaProblem::Call { doing, code: Code::Unknown }))
}

/// The positions of an exactly-once pipeline: `Checkpoints` in the topic.
pub struct KafkaCheckpoints(pub Arc<ExactlyOnce>);

impl KafkaCheckpoints {
    fn classified(&self, problem: KafkaProblem) -> Failure {
        crate::failure::classify(problem, &self.0.positions.identity)
    }
}

#[async_trait]
impl Checkpoints for KafkaCheckpoints {
    /// Fences nobody: another process may be publishing. So it waits for nobody either: the transaction that a killed process
    /// left open ends when `claim` fences it, which reads again.
    async fn load(&self) -> Result<Option<Position>, Failure> {
        let stored = self.0.read(false).await.map_err(|problem| self.classified(problem))?;
        Ok(stored.as_ref().and_then(Stored::position))
    }

    async fn claim(&self) -> Result<Option<Position>, Failure> {
        self.0.take_over().await.map_err(|problem| self.classified(problem))
    }

    async fn save(&self, position: &Position) -> Result<(), Failure> {
        self.0.write(position).await.map_err(|problem| self.classified(problem))
    }

    async fn clear(&self) -> Result<(), Failure> {
        self.0.write_alone(None).await.map_err(|problem| self.classified(problem))
    }
}
