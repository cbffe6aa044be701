//! The fake ends on the database's side: source, confirm, checkpoints, and a router that reads the log.

use super::world::{Kind, Record, World, number, position};
use async_trait::async_trait;
use bytes::Bytes;
use rand::Rng;
use std::sync::Arc;
use tailwater_core::route::{Route, Routed};
use tailwater_core::{
    Batch, Change, Checkpoints, Commit, Confirm, Event, Failure, Headers, LogicalMessage, Message, MessageId,
    OpenSource, Position, Source, Timestamp,
};
use tokio::time::{Instant, sleep, sleep_until};

/// The message that record `number` becomes.
pub fn message(number: usize, record: &Record) -> Message {
    Message {
        id: MessageId(format!("e{number}").into()),
        topic: "events".into(),
        event_type: None,
        key: record.key.map(|key| Bytes::from(vec![key])),
        headers: Headers::default(),
        content_type: "application/json",
        payload: Some(Bytes::from(format!("{{\"record\":{number}}}"))),
        partition: None,
        timestamp: Timestamp(number as i64),
    }
}

/// Looks a change up in the log.
pub struct FakeRoute(pub Arc<World>);

impl Route for FakeRoute {
    fn apply(&mut self, change: &Change) -> Routed {
        let number = change.lsn as usize;
        let (record, readable) = {
            let state = self.0.lock();
            (state.setup.log[number], state.reads_all())
        };
        match record.kind {
            Kind::Filtered | Kind::Foreign => Routed::Filtered("not captured"),
            Kind::Unreadable if !readable => {
                Routed::Rejected { reason: "unreadable".into(), raw: Box::new(message(number, &record)) }
            }
            _ => Routed::Message(message(number, &record)),
        }
    }
}

pub struct FakeDatabase {
    pub world: Arc<World>,
    pub generation: u64,
}

#[async_trait]
impl OpenSource for FakeDatabase {
    async fn open(&self, from: Option<Position>) -> Result<(Box<dyn Source>, Arc<dyn Confirm>), Failure> {
        self.world.step(self.generation).await;
        let wait = self.world.lock().delay(20);
        sleep(wait).await;
        let mut state = self.world.lock();
        if state.chance(|faults| faults.fatal) {
            state.fatal_injected = true;
            return Err(Failure::fatal("let the operator act", "permission denied"));
        }
        if state.chance(|faults| faults.open_fails) {
            return Err(Failure::retry("connection refused"));
        }
        let next = from.as_ref().map_or(state.confirmed, number);
        if next < state.confirmed {
            let confirmed = state.confirmed;
            state.violate(format!("opens at {next}, the source has forgotten all below {confirmed}"));
        }
        // a source reports the position it starts from as confirmed: that one is durable
        state.confirmed = next;
        self.world.news.notify_one();
        state.note(format!("source opens at {next}"));
        let cut = state.chance(|faults| faults.source_fails).then(|| Instant::now() + state.delay(5_000));
        drop(state);
        let source =
            FakeSource { world: self.world.clone(), generation: self.generation, next, ready: None, cut, dead: false };
        let confirm = FakeConfirm { world: self.world.clone(), generation: self.generation };
        Ok((Box::new(source), Arc::new(confirm)))
    }
}

struct FakeSource {
    world: Arc<World>,
    generation: u64,
    next: usize,
    /// When the next batch has arrived. Kept here, so that a dropped `next` loses nothing (S1).
    ready: Option<Instant>,
    cut: Option<Instant>,
    dead: bool,
}

impl FakeSource {
    fn batch(&mut self, room: usize) -> Batch {
        let mut state = self.world.lock();
        let most = state.rng.random_range(1..=8);
        let (first, mut size_bytes, mut changes) = (self.next, 0, Vec::new());
        while self.next < state.setup.log.len() && self.next - first < most {
            let record = state.setup.log[self.next];
            if size_bytes > 0 && size_bytes + record.bytes > room {
                break;
            }
            if record.kind != Kind::Foreign {
                size_bytes += record.bytes;
                changes.push(change(self.next));
            }
            self.next += 1;
        }
        let for_us = (first..self.next).any(|n| state.setup.log[n].is_for_us());
        if for_us {
            state.handed.push((first, self.next, size_bytes));
        }
        state.note(format!("batch {first}..{}", self.next));
        Batch { changes, size_bytes, upto: position(self.next) }
    }
}

fn change(number: usize) -> Change {
    let commit = Commit { lsn: number as u64, end_lsn: number as u64 + 1, ..Commit::default() };
    let event = LogicalMessage { transactional: true, prefix: Bytes::new(), content: Bytes::new() };
    Change { commit: Arc::new(commit), ordinal: 0, lsn: number as u64, marker: None, event: Event::Message(event) }
}

#[async_trait]
impl Source for FakeSource {
    async fn next(&mut self, room: usize) -> Result<Batch, Failure> {
        self.world.step(self.generation).await;
        let ready = {
            let mut state = self.world.lock();
            if self.dead {
                state.violate("S5: reads from a dead source".into());
            }
            state.check_room(room);
            let pause = if state.rng.random_bool(0.3) { state.delay(30) } else { state.delay(1) };
            *self.ready.get_or_insert(Instant::now() + pause)
        };
        let end = self.world.lock().setup.log.len();
        let cut = self.cut.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(86_400));
        if self.next == end {
            sleep_until(cut).await;
        } else {
            sleep_until(ready.min(cut)).await;
        }
        let fails = self.world.lock().chance(|faults| faults.source_fails);
        if fails || Instant::now() >= cut {
            self.dead = true;
            return Err(Failure::retry("replication connection lost"));
        }
        self.ready = None;
        Ok(self.batch(room))
    }
}

struct FakeConfirm {
    world: Arc<World>,
    generation: u64,
}

#[async_trait]
impl Confirm for FakeConfirm {
    async fn confirm(&self, upto: &Position) -> Result<(), Failure> {
        self.world.step(self.generation).await;
        let mut state = self.world.lock();
        state.check_confirm(number(upto));
        if state.chance(|faults| faults.confirm_fails) {
            return Err(Failure::retry("feedback not sent"));
        }
        state.confirmed = number(upto);
        state.note(format!("confirmed {upto}"));
        self.world.news.notify_one();
        Ok(())
    }
}

pub struct FakeCheckpoints {
    pub world: Arc<World>,
    pub generation: u64,
}

#[async_trait]
impl Checkpoints for FakeCheckpoints {
    async fn load(&self) -> Result<Option<Position>, Failure> {
        self.world.step(self.generation).await;
        Ok(self.world.lock().saved.map(position))
    }

    async fn save(&self, upto: &Position) -> Result<(), Failure> {
        let wait = {
            let mut state = self.world.lock();
            state.check_save(number(upto));
            if state.chance(|faults| faults.save_slow) { state.delay(3_000) } else { state.delay(2) }
        };
        self.world.step(self.generation).await;
        sleep(wait).await;
        if self.world.lock().chance(|faults| faults.save_fails) {
            return Err(Failure::retry("disk full"));
        }
        {
            let mut state = self.world.lock();
            state.saved = Some(number(upto));
            state.note(format!("saved {upto}"));
        }
        self.world.step(self.generation).await;
        if self.world.lock().chance(|faults| faults.save_lies) {
            return Err(Failure::retry("lost the answer"));
        }
        Ok(())
    }
}
