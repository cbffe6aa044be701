//! The contracts between the loop and its ends. Each rule is numbered; conformance suites name the rule they test.
//!
//! Everything is `dyn` here: one allocation per batch is nothing, generics through the whole program are not.

use crate::{Batch, Failure, Message, MessageId, Position};
use async_trait::async_trait;
use std::sync::Arc;

/// Where changes come from.
///
/// - S1 `next` is cancel-safe: dropping its future loses nothing; the next call goes on where it was.
/// - S2 Batches come in source order; positions of one opening never go back.
/// - S3 A batch without changes is idle progress; one is reported only when the place moved.
/// - S4 `room` is granted before reading: a batch holds at most `room` bytes, except for a single change that is larger.
/// - S5 After `Err` the source is dead: drop it and open a new one from the saved position.
#[async_trait]
pub trait Source: Send {
    /// Waits for the next run of changes. `room` (bytes) is at least 1.
    async fn next(&mut self, room: usize) -> Result<Batch, Failure>;
}

/// How a source is (re)opened: standby and gap decisions live in there.
///
/// - O1 `from` is the last saved position, `None` at the very first start.
/// - O2 Returns when changes may flow; waits (visibly) where another process holds the source.
#[async_trait]
pub trait OpenSource: Send + Sync {
    async fn open(&self, from: Option<Position>) -> Result<(Box<dyn Source>, Arc<dyn Confirm>), Failure>;
}

/// Tells a source what it may forget.
///
/// - C1 Called only with positions that are durably saved (save first, confirm second).
/// - C2 Rounds down to a commit: a position inside a transaction confirms the transaction before it.
/// - C3 Does not wait for the network: feedback travels in a task of its own.
#[async_trait]
pub trait Confirm: Send + Sync {
    async fn confirm(&self, upto: &Position) -> Result<(), Failure>;
}

/// Where messages go.
///
/// - K1 `open` returns only when the peer answered: a publisher that could not publish is an error here.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Opens publisher number `lane`; each lane is an ordered path of its own.
    async fn open(&self, lane: u32) -> Result<Box<dyn Publisher>, Failure>;
}

/// One ordered path to a broker.
///
/// - P1 Messages travel in the order of `push`.
/// - P2 `durable` counts a *prefix*: a message counts once it and all before it are durable at the broker.
/// - P3 A message the broker refused is in `rejected` exactly once. It does not count as durable, so the prefix stops before
///   it, until the caller *releases* it. What lies behind it may or may not have been delivered.
/// - P4 `drive` is cancel-safe and returns when there is something to report; with nothing in flight it waits (and keeps the
///   connection alive).
/// - P5 After `Err` it is dead: drop it. Everything not reported durable is to be sent again through a new one.
/// - P6 Errors before `Err`: results already known are reported first.
#[async_trait]
pub trait Publisher: Send {
    /// Takes messages to publish; never blocks. The lane bounds what is in flight.
    fn push(&mut self, slice: Slice);
    /// Moves bytes both ways until something is settled.
    async fn drive(&mut self) -> Result<Settled, Failure>;
    /// The caller made the rejected message number `index` durable elsewhere (dead letters): from now on it counts as
    /// durable where the prefix reaches it. Only for indexes that were reported in `rejected`.
    fn release(&mut self, index: u64);
    /// Says goodbye, bounded in time; nothing is in flight.
    async fn close(self: Box<Self>) {}
}

/// A run of messages for one lane.
#[derive(Clone, Debug)]
pub struct Slice {
    pub messages: Arc<[Message]>,
    /// For sinks that store the position themselves, together with the messages.
    pub upto: Option<Position>,
}

/// What became of messages since the last report.
#[derive(Debug, Default)]
pub struct Settled {
    /// So many more messages, from the front of what is unsettled, are durable.
    pub durable: usize,
    /// Refused for good; may lie beyond the prefix.
    pub rejected: Vec<Rejection>,
}

/// A message the broker will not take as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// Index among the messages pushed to this publisher, from 0 at its opening.
    pub index: u64,
    pub id: MessageId,
    /// A sentence for people: who refused, why, what would make it acceptable.
    pub reason: String,
}

/// Where positions are kept by us.
///
/// - H1 `save` returns when the position survives a power cut.
/// - H2 `load` of something unreadable is `Fatal`, never `None`.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    async fn load(&self) -> Result<Option<Position>, Failure>;
    async fn save(&self, position: &Position) -> Result<(), Failure>;
    /// Asked once the source is held, so nobody else reads it any more: whoever published before can store nothing from now
    /// on, and what was stored last is the answer.
    async fn claim(&self) -> Result<Option<Position>, Failure> {
        self.load().await
    }
    /// Forgets the position: the next start is a first one, as far as we know. Only while nothing runs.
    async fn clear(&self) -> Result<(), Failure> {
        Err(Failure::fatal("remove the position where it is kept", "positions of this kind are not removed from here"))
    }
}
