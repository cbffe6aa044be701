//! Pipelines of fakes: a source that counts, a broker that takes all or freezes, positions in memory.

use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tailwater::config::{PipelineConfig, RouteConfig, SinkConfig, SourceConfig};
use tailwater::housekeeping::schedule::Schedule;
use tailwater::memory::Share;
use tailwater::metrics::{State, Status};
use tailwater::pipeline::{Parts, Pause};
use tailwater::supervisor::Assemble;
use tailwater_core::route::{Route, Routed};
use tailwater_core::{
    Batch, Change, Checkpoints, Commit, Confirm, Event, Failure, Headers, LogicalMessage, Message, MessageId,
    OpenSource, Position, Publisher, Settled, Sink, Slice, Source, Timestamp,
};
use tokio::time::{Instant, sleep};

/// What a pipeline's world does.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// So many openings of the source fail for good.
    pub fatal_openings: usize,
    /// The source says that events may be missing.
    pub gap: bool,
    /// The source fails for good after so many rows.
    pub fatal_after: Option<u64>,
    /// The router panics at this row.
    pub panics_at: Option<u64>,
    /// The broker takes everything and answers nothing.
    pub frozen: bool,
    pub row_bytes: usize,
    /// The disk is full: positions cannot be saved.
    pub disk_full: bool,
}

#[derive(Default)]
pub struct World {
    pub script: Mutex<Script>,
    pub openings: Mutex<Vec<Instant>>,
    pub opened_from: Mutex<Vec<Option<Position>>>,
    /// Sources that are open now, and at most so far.
    pub open: AtomicU64,
    pub open_max: AtomicU64,
    /// Rows handed over: the number of the next.
    pub read: AtomicU64,
    pub confirmed: AtomicU64,
    pub saved: Mutex<Option<Position>>,
    pub published: Mutex<Vec<u64>>,
}

impl World {
    /// The first row that was confirmed and never published.
    pub fn lost(&self) -> Option<u64> {
        let published: BTreeSet<u64> = self.published.lock().unwrap().iter().copied().collect();
        (0..self.confirmed.load(Relaxed)).find(|row| !published.contains(row))
    }
}

/// Makes pipelines by their scripts.
#[derive(Default)]
pub struct Fake(Mutex<HashMap<String, Arc<World>>>);

impl Fake {
    pub fn script(&self, name: &str, script: Script) {
        *self.world(name).script.lock().unwrap() = script;
    }

    pub fn world(&self, name: &str) -> Arc<World> {
        self.0.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }
}

impl Assemble for Fake {
    fn parts(&self, name: &str, pipeline: &PipelineConfig, status: Arc<Status>) -> Result<Parts, Failure> {
        let world = self.world(name);
        Ok(Parts {
            source: Arc::new(Database(world.clone(), status.clone())),
            route: Box::new(Plain(world.clone())),
            sink: Arc::new(Broker(world.clone())),
            dead_letters: None,
            checkpoints: Arc::new(Places(world)),
            delivery: pipeline.delivery.clone(),
            status,
            memory: Share::alone(),
            pause: Pause::never(),
        })
    }

    fn schedule(&self, _: &PipelineConfig, _: Arc<Status>) -> Option<Schedule> {
        None
    }
}

pub fn config() -> PipelineConfig {
    PipelineConfig {
        source: SourceConfig::Postgres(Default::default()),
        route: RouteConfig::default(),
        sink: SinkConfig::Stdout,
        delivery: Default::default(),
        admin: None,
        prune: None,
    }
}

pub fn position(row: u64) -> Position {
    Position::new(row.to_string())
}

struct Database(Arc<World>, Arc<Status>);

#[async_trait]
impl OpenSource for Database {
    async fn open(&self, from: Option<Position>) -> Result<(Box<dyn Source>, Arc<dyn Confirm>), Failure> {
        let world = &self.0;
        world.openings.lock().unwrap().push(Instant::now());
        world.opened_from.lock().unwrap().push(from.clone());
        {
            let mut script = world.script.lock().unwrap();
            if script.gap {
                self.1.set_state(State::GapPossible { error: "slot lost".into(), hint: "decide".into() });
                return Err(Failure::fatal("decide", "slot lost"));
            }
            if script.fatal_openings > 0 {
                script.fatal_openings -= 1;
                return Err(Failure::fatal("grant it", "permission denied"));
            }
        }
        let row = from.map_or(0, |position| position.as_str().parse().unwrap());
        world.read.store(row, Relaxed);
        world.open_max.fetch_max(world.open.fetch_add(1, Relaxed) + 1, Relaxed);
        self.1.set_state(State::Streaming);
        Ok((Box::new(Rows(world.clone())), Arc::new(Feedback(world.clone()))))
    }
}

struct Rows(Arc<World>);

impl Drop for Rows {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[async_trait]
impl Source for Rows {
    async fn next(&mut self, room: usize) -> Result<Batch, Failure> {
        sleep(Duration::from_millis(1)).await;
        let (row, script) = (self.0.read.load(Relaxed), self.0.script.lock().unwrap().clone());
        if script.fatal_after.is_some_and(|after| row >= after) {
            return Err(Failure::fatal("grant it", "permission denied"));
        }
        let size = script.row_bytes.max(1000);
        let count = (room / size).clamp(1, 10) as u64;
        let changes = (row..row + count).map(change).collect();
        self.0.read.store(row + count, Relaxed);
        Ok(Batch { changes, size_bytes: size * count as usize, upto: position(row + count) })
    }
}

fn change(row: u64) -> Change {
    let message = LogicalMessage { transactional: true, prefix: "p".into(), content: "x".into() };
    let commit = Arc::new(Commit { lsn: row, ..Commit::default() });
    Change { commit, ordinal: 0, lsn: row, marker: None, event: Event::Message(message) }
}

struct Feedback(Arc<World>);

#[async_trait]
impl Confirm for Feedback {
    async fn confirm(&self, upto: &Position) -> Result<(), Failure> {
        self.0.confirmed.store(upto.as_str().parse().unwrap(), Relaxed);
        Ok(())
    }
}

struct Places(Arc<World>);

#[async_trait]
impl Checkpoints for Places {
    async fn load(&self) -> Result<Option<Position>, Failure> {
        Ok(self.0.saved.lock().unwrap().clone())
    }

    async fn save(&self, position: &Position) -> Result<(), Failure> {
        sleep(Duration::from_millis(3)).await;
        if self.0.script.lock().unwrap().disk_full {
            return Err(Failure::retry("no space left on device"));
        }
        *self.0.saved.lock().unwrap() = Some(position.clone());
        Ok(())
    }

    async fn clear(&self) -> Result<(), Failure> {
        *self.0.saved.lock().unwrap() = None;
        Ok(())
    }
}

struct Plain(Arc<World>);

impl Route for Plain {
    fn apply(&mut self, change: &Change) -> Routed {
        let panics_at = self.0.script.lock().unwrap().panics_at;
        assert_ne!(Some(change.lsn), panics_at, "an invariant of the test does not hold");
        Routed::Message(Message {
            id: MessageId(change.lsn.to_string().into()),
            topic: "events".into(),
            event_type: None,
            key: None,
            headers: Headers::default(),
            content_type: "application/json",
            payload: None,
            partition: None,
            timestamp: Timestamp(0),
        })
    }
}

struct Broker(Arc<World>);

#[async_trait]
impl Sink for Broker {
    async fn open(&self, _lane: u32) -> Result<Box<dyn Publisher>, Failure> {
        Ok(Box::new(Path { world: self.0.clone(), unsettled: Vec::new() }))
    }
}

struct Path {
    world: Arc<World>,
    unsettled: Vec<u64>,
}

#[async_trait]
impl Publisher for Path {
    fn push(&mut self, slice: Slice) {
        self.unsettled.extend(slice.messages.iter().map(|message| message.id.0.parse::<u64>().unwrap()));
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.unsettled.is_empty() || self.world.script.lock().unwrap().frozen {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(2)).await;
        let durable = self.unsettled.len();
        self.world.published.lock().unwrap().append(&mut self.unsettled);
        Ok(Settled { durable, rejected: Vec::new() })
    }

    fn release(&mut self, _index: u64) {}
}
