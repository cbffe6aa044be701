//! What is in flight, and the one answer that matters: up to where may the source forget?
//!
//! The ledger alone decides what is safe to confirm: the position right after the highest *contiguous* run of settled
//! batches. It keeps no messages and knows no lanes; it counts.
//!
//! ```text
//!   open(upto, messages, bytes) ──▶ [ settled | settled | 3 open | settled | 1 open ]
//!                                     └─────────────┘ safe() = upto of the second
//! ```

use crate::Position;
use std::collections::VecDeque;

/// Names an open entry. Never reused within one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

#[derive(Debug)]
struct Entry {
    upto: Position,
    /// Messages not yet settled.
    open: usize,
    bytes: usize,
}

/// Counts what is in flight, in source order.
#[derive(Debug)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    /// Id of the front entry.
    first: u64,
    bytes: usize,
    limit_bytes: usize,
    messages: usize,
    safe: Option<Position>,
}

impl Ledger {
    /// `limit_bytes`: the one limit on memory in flight.
    pub fn new(limit_bytes: usize) -> Self {
        assert!(limit_bytes > 0, "a ledger without room can never make progress");
        Ledger { entries: VecDeque::new(), first: 0, bytes: 0, limit_bytes, messages: 0, safe: None }
    }

    /// Bytes a source may read now; `None` when the ledger is full.
    pub fn room(&self) -> Option<usize> {
        self.limit_bytes.checked_sub(self.bytes).filter(|room| *room > 0)
    }

    /// Enters a batch of `messages` messages that ends at `upto`. With no messages it is settled at once, in its turn.
    pub fn open(&mut self, upto: Position, messages: usize, bytes: usize) -> EntryId {
        let id = EntryId(self.first + self.entries.len() as u64);
        if messages == 0 {
            // Idle progress: no entry of its own if the one before can carry its position only once that one is settled.
            self.entries.push_back(Entry { upto, open: 0, bytes: 0 });
            self.pop_settled();
            return id;
        }
        self.bytes += bytes;
        self.messages += messages;
        self.entries.push_back(Entry { upto, open: messages, bytes });
        id
    }

    /// `count` more messages of the entry are settled: durable at the broker or durable as a dead letter.
    pub fn settle(&mut self, id: EntryId, count: usize) {
        let index =
            id.0.checked_sub(self.first).expect("an entry is settled once: this one has left the ledger") as usize;
        let entry = self.entries.get_mut(index).expect("an entry is settled after it was opened");
        assert!(count <= entry.open, "settled more messages than the batch had");
        entry.open -= count;
        self.messages -= count;
        self.pop_settled();
    }

    fn pop_settled(&mut self) {
        while let Some(entry) = self.entries.front() {
            if entry.open > 0 {
                break;
            }
            let entry = self.entries.pop_front().expect("front exists");
            self.first += 1;
            self.bytes -= entry.bytes;
            self.safe = Some(entry.upto);
        }
    }

    /// The highest position with nothing open before it, if it moved since the last call.
    pub fn take_safe(&mut self) -> Option<Position> {
        self.safe.take()
    }

    /// Messages not yet settled.
    pub fn in_flight(&self) -> usize {
        self.messages
    }

    /// Bytes held by what is not yet settled.
    pub fn in_flight_bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
