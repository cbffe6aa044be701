//! A broker that stores, refuses, holds, cuts and loses replies; and the sink that talks to it, as a careful one would.
//!
//! Messages travel: what was written before a cut may still arrive after the next connection has begun. The client's side
//! keeps its delivery tags in the window that the RabbitMQ publisher uses: acks come out of order, and for several at once.

use super::world::{Kind, State, World};
use async_trait::async_trait;
use rand::Rng;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tailwater::lanes::REASON_HEADER;
use tailwater::sinks::rabbitmq::window::Window;
use tailwater_core::{Failure, Message, Publisher, Rejection, Settled, Sink, Slice};
use tokio::time::{Instant, sleep_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Durable,
    Refused,
}

/// One connection as the broker sees it.
#[derive(Debug)]
pub struct Connection {
    dead_letters: bool,
    /// On their way to the broker, in order: index, record, arrival.
    inbox: VecDeque<(u64, usize, Instant)>,
    /// On their way back: when, index, what.
    replies: Vec<(Instant, u64, Verdict)>,
    /// Message ids by index.
    ids: Vec<Arc<str>>,
    /// From here on the client sees an error.
    cut: Option<Instant>,
    /// The broker takes nothing more from it.
    closed: bool,
}

impl State {
    /// Lets everything arrive whose time has come.
    pub fn deliver(&mut self, now: Instant) {
        loop {
            let due = self.connections.iter().enumerate();
            let due = due.filter_map(|(id, connection)| Some((connection.inbox.front()?.2, id)));
            let Some((_, id)) = due.filter(|(arrival, _)| *arrival <= now).min() else { return };
            let Some((index, record, arrival)) = self.connections[id].inbox.pop_front() else { return };
            if !self.connections[id].closed {
                self.arrive(id, index, record, arrival);
            }
        }
    }

    fn arrive(&mut self, id: usize, index: u64, record: usize, at: Instant) {
        if self.chance(|faults| faults.cut) {
            self.note(format!("connection {id} is cut before record {record}"));
            let later = self.delay(50);
            self.connections[id].closed = true;
            self.connections[id].cut.get_or_insert(at + later);
            return;
        }
        let held = if self.chance(|faults| faults.hold) { self.delay(20_000) } else { Duration::ZERO };
        let reply = at + held + self.delay(5);
        let dead_letters = self.connections[id].dead_letters;
        let kind = self.setup.log[record].kind;
        let poison = kind == Kind::Poison && !dead_letters && (!self.calm || self.setup.dead_letters);
        let unroutable = kind == Kind::Unroutable && !dead_letters && !self.calm;
        if poison || unroutable || self.chance(|faults| faults.refuse) {
            self.note(format!("connection {id} refuses record {record}, index {index}"));
            if !dead_letters {
                self.refused[record] = true;
            }
            if poison {
                self.poisoned(id, index, at, reply);
            } else {
                self.connections[id].replies.push((reply, index, Verdict::Refused));
            }
            return;
        }
        self.note(format!("connection {id} stores record {record}, index {index}, dead letter {dead_letters}"));
        if dead_letters {
            self.dead[record] = true;
        } else {
            self.delivered[record] = true;
            self.arrivals.push(record);
        }
        if self.chance(|faults| faults.lose_reply) {
            self.connections[id].closed = true;
            self.connections[id].cut.get_or_insert(reply);
        } else {
            self.connections[id].replies.push((reply, index, Verdict::Durable));
        }
    }

    /// The broker closes the connection; it names the offender for sure only when nothing else was in flight.
    fn poisoned(&mut self, id: usize, index: u64, at: Instant, reply: Instant) {
        let named = self.rng.random_bool(0.5);
        let connection = &mut self.connections[id];
        let alone = connection.inbox.is_empty() && connection.replies.is_empty();
        connection.closed = true;
        if named || alone {
            connection.replies.push((reply, index, Verdict::Refused));
        }
        // what was stored before it is acknowledged first
        let last = connection.replies.iter().map(|(at, ..)| *at).max().unwrap_or(at);
        connection.cut.get_or_insert(last + Duration::from_millis(1));
    }

    /// Whether the broker answers all up to `index` at once. Then the single acks below are never sent.
    fn acknowledges_many(&mut self, id: usize, index: u64, not_yet: &[(Instant, u64, Verdict)]) -> bool {
        let refused = |replies: &[(Instant, u64, Verdict)]| {
            replies.iter().any(|(_, other, verdict)| *other <= index && *verdict == Verdict::Refused)
        };
        if refused(not_yet) || refused(&self.connections[id].replies) || self.rng.random_bool(0.7) {
            return false;
        }
        self.connections[id].replies.retain(|(_, other, _)| *other > index);
        true
    }

    fn next_event(&self, id: usize) -> Option<Instant> {
        let arrivals = self.connections.iter().filter_map(|connection| connection.inbox.front().map(|m| m.2));
        let replies = self.connections[id].replies.iter().map(|(at, ..)| *at);
        arrivals.chain(replies).chain(self.connections[id].cut).min()
    }
}

pub struct FakeSink {
    pub world: Arc<World>,
    pub generation: u64,
    pub dead_letters: bool,
}

#[async_trait]
impl Sink for FakeSink {
    async fn open(&self, _lane: u32) -> Result<Box<dyn Publisher>, Failure> {
        self.world.step(self.generation).await;
        let (wait, fails) = {
            let mut state = self.world.lock();
            (state.delay(20), state.chance(|faults| faults.open_fails))
        };
        tokio::time::sleep(wait).await;
        let mut state = self.world.lock();
        if state.chance(|faults| faults.fatal) {
            state.fatal_injected = true;
            return Err(Failure::fatal("let the operator act", "access refused"));
        }
        if fails {
            return Err(Failure::retry("connection refused"));
        }
        let id = state.connections.len();
        let idle_cut = state.chance(|faults| faults.idle_cut).then(|| Instant::now() + state.delay(20_000));
        state.connections.push(Connection {
            dead_letters: self.dead_letters,
            inbox: VecDeque::new(),
            replies: Vec::new(),
            ids: Vec::new(),
            cut: idle_cut,
            closed: false,
        });
        state.note(format!("connection {id} opens, dead letters {}", self.dead_letters));
        drop(state);
        Ok(Box::new(FakePublisher {
            world: self.world.clone(),
            generation: self.generation,
            id,
            window: Window::default(),
            pushed: 0,
            durable: 0,
            dead: false,
        }))
    }
}

struct FakePublisher {
    world: Arc<World>,
    generation: u64,
    id: usize,
    window: Window,
    pushed: u64,
    durable: u64,
    dead: bool,
}

impl FakePublisher {
    /// What has become known by now. P2, P3: a prefix, and each refusal once.
    fn report(&mut self, state: &mut State, now: Instant) -> Settled {
        let mut report = Settled::default();
        let mut known: Vec<_> = state.connections[self.id].replies.extract_if(.., |(at, ..)| *at <= now).collect();
        known.sort();
        for (place, (_, index, verdict)) in known.iter().copied().enumerate() {
            if verdict == Verdict::Refused {
                // a return names the message, not the tag; its ack follows and changes nothing
                let id = tailwater_core::MessageId(state.connections[self.id].ids[index as usize].clone());
                match self.window.returned(|message| message.id == id) {
                    Some(index) => {
                        report.rejected.push(Rejection { index, id, reason: "refused by the simulation".into() })
                    }
                    None => state.violate(format!("the return of {id} fits nothing in the window")),
                }
            }
            let multiple = state.acknowledges_many(self.id, index, &known[place..]);
            if self.window.ack(index + 1, multiple).is_err() {
                state.violate(format!("the window knows no tag {}", index + 1));
            }
        }
        report.durable = self.window.take_durable();
        self.durable += report.durable as u64;
        report
    }

    fn accept(&self, state: &mut State, message: &Message) -> Option<usize> {
        let record = message.id.0.strip_prefix('e').and_then(|n| n.parse::<usize>().ok());
        let Some(record) = record.filter(|n| state.setup.log.get(*n).is_some_and(|r| r.is_for_us())) else {
            state.violate(format!("publishes {} which nobody wrote", message.id));
            return None;
        };
        let mut expected = super::source::message(record, &state.setup.log[record]);
        let dead_letters = state.connections[self.id].dead_letters;
        let reasons = message.headers.0.iter().filter(|header| &*header.name == REASON_HEADER).count();
        expected.headers = message.headers.clone();
        if *message != expected || reasons != usize::from(dead_letters) {
            state.violate(format!("record {record} is not published as it was routed"));
        }
        if state.setup.log[record].kind == Kind::Unreadable && !dead_letters && !state.reads_all() {
            state.violate(format!("record {record} cannot be published and is"));
        }
        Some(record)
    }
}

#[async_trait]
impl Publisher for FakePublisher {
    fn push(&mut self, slice: Slice) {
        let world = self.world.clone();
        let mut state = world.lock();
        if self.dead {
            state.violate("P5: pushes to a dead publisher".into());
        }
        let now = Instant::now();
        self.window.push(slice.clone());
        for message in slice.messages.iter() {
            let index = self.pushed;
            self.pushed += 1;
            self.window.sent();
            state.connections[self.id].ids.push(message.id.0.clone());
            if self.pushed - self.durable > state.setup.window as u64 {
                state.violate(format!("{} messages in flight on one connection", self.pushed - self.durable));
            }
            let Some(record) = self.accept(&mut state, message) else { continue };
            let arrival = now + state.delay(3);
            let inbox = &mut state.connections[self.id].inbox;
            let arrival = inbox.back().map_or(arrival, |before| before.2.max(arrival));
            inbox.push_back((index, record, arrival));
        }
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        self.world.step(self.generation).await;
        loop {
            let next = {
                let world = self.world.clone();
                let mut state = world.lock();
                if self.dead {
                    state.violate("P5: drives a dead publisher".into());
                }
                let now = Instant::now();
                state.deliver(now);
                let report = self.report(&mut state, now);
                if report.durable > 0 || !report.rejected.is_empty() {
                    return Ok(report);
                }
                if state.connections[self.id].cut.is_some_and(|at| at <= now) {
                    self.dead = true;
                    return Err(Failure::retry("connection reset"));
                }
                state.next_event(self.id)
            };
            match next {
                Some(at) => sleep_until(at.max(Instant::now() + Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn release(&mut self, index: u64) {
        self.window.release(index);
    }

    async fn close(self: Box<Self>) {
        if self.durable < self.pushed {
            self.world.lock().violate("closes a publisher with messages in flight".into());
        }
    }
}

impl Drop for FakePublisher {
    /// The socket is gone; a part of what was written still arrives, the rest never does.
    fn drop(&mut self) {
        let mut state = self.world.lock();
        let written = state.connections[self.id].inbox.len();
        let arrives = state.rng.random_range(0..=written);
        state.connections[self.id].inbox.truncate(arrives);
    }
}
