//! A batch on its way to the lanes: which message goes to which, and what goes with it.

use crate::lanes::Work;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tailwater_core::ledger::EntryId;
use tailwater_core::{Change, Message, Position, Slice};
use tokio::sync::mpsc;

/// A batch, sorted into lanes.
pub(super) struct Plan {
    lanes: Vec<Vec<Part>>,
    pub messages: usize,
    pub bytes: usize,
    /// Where the source stands after the batch: only an only lane may store it with its last messages.
    pub upto: Option<Position>,
}

enum Part {
    Good { messages: Vec<Message>, commit_us: i64 },
    Refused { raw: Message, reason: String, commit_us: i64 },
}

impl Plan {
    pub fn new(lanes: usize) -> Self {
        Plan { lanes: (0..lanes).map(|_| Vec::new()).collect(), messages: 0, bytes: 0, upto: None }
    }

    fn lane(&mut self, message: &Message) -> &mut Vec<Part> {
        self.messages += 1;
        self.bytes += message.size_bytes();
        let count = self.lanes.len();
        let index = if count == 1 { 0 } else { lane_of(message, count) };
        &mut self.lanes[index]
    }

    pub fn message(&mut self, message: Message, change: &Change) {
        let parts = self.lane(&message);
        match parts.last_mut() {
            Some(Part::Good { messages, .. }) => messages.push(message),
            _ => parts.push(Part::Good { messages: vec![message], commit_us: change.commit.time_us }),
        }
    }

    pub fn refused(&mut self, raw: Message, reason: String, change: &Change) {
        let commit_us = change.commit.time_us;
        self.lane(&raw).push(Part::Refused { raw, reason, commit_us });
    }

    pub fn hand_over(mut self, entry: EntryId, work: &[mpsc::UnboundedSender<Work>]) {
        for (lane, parts) in self.lanes.into_iter().enumerate() {
            let last = parts.len().saturating_sub(1);
            for (index, part) in parts.into_iter().enumerate() {
                let (messages, commit_us, refused): (Arc<[Message]>, _, _) = match part {
                    Part::Good { messages, commit_us } => (messages.into(), commit_us, None),
                    Part::Refused { raw, reason, commit_us } => (Arc::new([raw]), commit_us, Some(reason)),
                };
                let upto = if index == last { self.upto.take() } else { None };
                let slice = Slice { messages, upto };
                // a lane that is gone has failed, which the loop is about to hear; the entry stays open
                drop(work[lane].send(Work { entry, slice, commit_us, refused }));
            }
        }
    }
}

/// Messages of one key share a lane.
fn lane_of(message: &Message, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    match &message.key {
        Some(key) => key.hash(&mut hasher),
        None => message.id.hash(&mut hasher),
    }
    (hasher.finish() % count as u64) as usize
}
