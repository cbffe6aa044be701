//! The messages of one channel that are pushed and not yet reported: which delivery tags are open, which are stored,
//! which were refused. Pure; reads no frames.
//!
//! ```text
//!   push ─▶ waiting ─sent(tag)─▶ open ──ack──▶ stored ──┐ leaves as part of the durable prefix
//!              │                  │ └───nack─▶ nacked    │ (stops the prefix; ends the publisher)
//!              └─── reject ───────┴─return──▶ rejected ──┴─ after release()
//! ```
//! Acks arrive out of order as soon as messages of one channel go to different queues, and `multiple` covers only what
//! is still open (observed on RabbitMQ 3.10): so this is a set of open tags, and durable is what lies before the first
//! that is not stored. Tags restart at 1 with each channel; a window lives exactly as long as its channel (T34).

use std::collections::VecDeque;
use std::sync::Arc;
use tailwater_core::{Message, Slice};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Pushed, not yet laid out for the wire.
    Waiting,
    Open,
    Stored,
    Nacked,
    Rejected,
}

#[derive(Debug)]
struct Entry {
    /// The channel's publish number, from 1; 0 while waiting and for what was never sent.
    tag: u64,
    state: State,
}

/// A confirm or a return that fits nothing in the window.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker confirmed message {tag} of a channel on which {sent} were sent")]
pub struct UnknownTag {
    tag: u64,
    sent: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<Entry>,
    /// Index, since the opening, of the front entry.
    first: u64,
    /// Index of the next message to send.
    next: u64,
    /// Messages sent on this channel so far = the last tag given.
    sent: u64,
    open: usize,
    nacked: usize,
    /// Slices that still hold unreported messages, with the index of their first one.
    slices: VecDeque<(u64, Arc<[Message]>)>,
    /// Where the search for the next returned message begins: returns come in publish order.
    returned_upto: u64,
}

impl Window {
    /// Takes more messages; they wait to be sent.
    pub fn push(&mut self, slice: Slice) {
        let end = self.end();
        if slice.messages.is_empty() {
            return;
        }
        self.entries.extend(slice.messages.iter().map(|_| Entry { tag: 0, state: State::Waiting }));
        self.slices.push_back((end, slice.messages));
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The next message to lay out and its index.
    pub fn next_to_send(&self) -> Option<(u64, &Message)> {
        (self.next < self.end()).then(|| (self.next, self.message(self.next)))
    }

    /// The message of `next_to_send` goes out under the channel's next tag.
    pub fn sent(&mut self) {
        self.sent += 1;
        let tag = self.sent;
        let next = self.next;
        let entry = self.entry(next).expect("next_to_send lies in the window");
        *entry = Entry { tag, state: State::Open };
        self.next += 1;
        self.open += 1;
    }

    /// The message of `next_to_send` cannot be sent at all.
    pub fn unsendable(&mut self) {
        let next = self.next;
        self.entry(next).expect("next_to_send lies in the window").state = State::Rejected;
        self.next += 1;
    }

    /// The message with this index; it must be unreported.
    pub fn message(&self, index: u64) -> &Message {
        let place = self.slices.partition_point(|(base, _)| *base <= index).checked_sub(1);
        let (base, messages) = &self.slices[place.expect("unreported messages keep their slice")];
        &messages[(index - base) as usize]
    }

    fn entry(&mut self, index: u64) -> Option<&mut Entry> {
        self.entries.get_mut(index.checked_sub(self.first)? as usize)
    }

    /// Stored, up to and including `tag` if `multiple`.
    pub fn ack(&mut self, tag: u64, multiple: bool) -> Result<(), UnknownTag> {
        self.confirm(tag, multiple, State::Stored)
    }

    /// Refused by a queue, up to and including `tag` if `multiple`.
    pub fn nack(&mut self, tag: u64, multiple: bool) -> Result<(), UnknownTag> {
        self.confirm(tag, multiple, State::Nacked)
    }

    fn confirm(&mut self, tag: u64, multiple: bool, to: State) -> Result<(), UnknownTag> {
        let sent = self.sent;
        // Tag 0 with `multiple` would mean "all"; no broker sends it as a confirm.
        if tag == 0 || tag > sent {
            return Err(UnknownTag { tag, sent });
        }
        let upto = (self.next - self.first) as usize;
        let mut settled = 0;
        if multiple {
            for entry in self.entries.range_mut(..upto) {
                if entry.tag > tag {
                    break;
                }
                settled += settle(entry, to);
            }
        } else {
            // Unsendable entries have tag 0 and break the order of tags: they are few, so step over them from a guess.
            let front = self.entries.iter().find(|e| e.tag != 0).map_or(tag, |e| e.tag);
            let mut at = tag.saturating_sub(front) as usize;
            while at < upto && self.entries[at].tag != tag {
                at += 1;
            }
            if at < upto {
                settled += settle(&mut self.entries[at], to);
            }
        }
        self.open -= settled;
        if to == State::Nacked {
            self.nacked += settled;
        }
        Ok(())
    }

    /// The first open message that `fits`, searched where returns can be; it is rejected now. `None`: nothing fits.
    pub fn returned(&mut self, fits: impl Fn(&Message) -> bool) -> Option<u64> {
        let from = self.returned_upto.max(self.first);
        let found = (from..self.next)
            .chain(self.first..from)
            .find(|i| self.entries[(i - self.first) as usize].state == State::Open && fits(self.message(*i)))?;
        self.reject(found);
        self.returned_upto = found + 1;
        Some(found)
    }

    /// An open message is refused for good. Its own ack, which still comes, changes nothing.
    pub fn reject(&mut self, index: u64) {
        let entry = self.entry(index).expect("only messages in the window are rejected");
        assert_eq!(entry.state, State::Open, "only an open message can be rejected");
        entry.state = State::Rejected;
        self.open -= 1;
    }

    /// A rejected message was made durable elsewhere.
    pub fn release(&mut self, index: u64) {
        let entry = self.entry(index).expect("a rejected message stays in the window until it is released");
        assert_eq!(entry.state, State::Rejected, "only a rejected message can be released");
        entry.state = State::Stored;
    }

    /// Indexes of the open messages, in order.
    pub fn open_indexes(&self) -> impl Iterator<Item = u64> + '_ {
        let first = self.first;
        self.entries.iter().enumerate().filter(|(_, e)| e.state == State::Open).map(move |(i, _)| first + i as u64)
    }

    /// Sent and without any answer.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Refused by a full queue.
    pub fn nacked(&self) -> usize {
        self.nacked
    }

    /// Pushed and not sent.
    pub fn has_waiting(&self) -> bool {
        self.next < self.end()
    }

    /// Drops the durable prefix and says how long it was.
    pub fn take_durable(&mut self) -> usize {
        let count = self.entries.iter().take_while(|e| e.state == State::Stored).count();
        self.entries.drain(..count);
        self.first += count as u64;
        while let Some((base, messages)) = self.slices.front()
            && base + messages.len() as u64 <= self.first
        {
            self.slices.pop_front();
        }
        count
    }
}

fn settle(entry: &mut Entry, to: State) -> usize {
    if entry.state != State::Open {
        return 0;
    }
    entry.state = to;
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tailwater_core::{Headers, MessageId, Timestamp};

    fn slice(ids: impl IntoIterator<Item = u64>) -> Slice {
        let message = |i: u64| Message {
            id: MessageId(i.to_string().into()),
            topic: "t".into(),
            event_type: None,
            key: None,
            headers: Headers::default(),
            content_type: "application/json",
            payload: None,
            partition: None,
            timestamp: Timestamp(0),
        };
        Slice { messages: ids.into_iter().map(message).collect(), upto: None }
    }

    fn sent(count: u64) -> Window {
        let mut window = Window::default();
        window.push(slice(0..count));
        while window.next_to_send().is_some() {
            window.sent();
        }
        window
    }

    /// T8, T34
    #[test]
    fn durable_is_what_lies_before_the_first_open_tag() {
        let mut window = sent(5);
        window.ack(3, false).unwrap();
        window.ack(2, false).unwrap();
        assert_eq!(window.take_durable(), 0);
        window.ack(1, false).unwrap();
        assert_eq!(window.take_durable(), 3);
        window.ack(5, true).unwrap();
        assert_eq!(window.take_durable(), 2);
        assert_eq!(window.open(), 0);
    }

    #[test]
    fn a_multiple_ack_covers_only_what_is_still_open() {
        let mut window = sent(4);
        window.nack(2, false).unwrap();
        window.ack(4, true).unwrap();
        assert_eq!((window.take_durable(), window.nacked(), window.open()), (1, 1, 0));
        assert_eq!(window.take_durable(), 0, "the nacked message stops the prefix for ever");
    }

    #[test]
    fn a_tag_that_was_never_sent_is_an_error_and_an_old_one_is_nothing() {
        let mut window = sent(2);
        assert_eq!(window.ack(3, true), Err(UnknownTag { tag: 3, sent: 2 }));
        window.ack(2, true).unwrap();
        assert_eq!(window.take_durable(), 2);
        window.ack(1, false).unwrap();
        assert_eq!(window.take_durable(), 0);
    }

    /// T32
    #[test]
    fn a_returned_message_is_not_durable_though_its_ack_follows() {
        let mut window = sent(3);
        assert_eq!(window.returned(|m| &*m.id.0 == "1"), Some(1));
        window.ack(3, true).unwrap();
        assert_eq!(window.take_durable(), 1);
        window.release(1);
        assert_eq!(window.take_durable(), 2);
    }

    #[test]
    fn returns_of_one_id_are_matched_first_open_first() {
        let mut window = Window::default();
        window.push(slice([7, 8, 7, 7]));
        while window.next_to_send().is_some() {
            window.sent();
        }
        assert_eq!(window.returned(|m| &*m.id.0 == "7"), Some(0));
        assert_eq!(window.returned(|m| &*m.id.0 == "7"), Some(2));
        assert_eq!(window.returned(|m| &*m.id.0 == "8"), Some(1), "also one that comes out of order");
        assert_eq!(window.returned(|m| &*m.id.0 == "9"), None);
    }

    #[test]
    fn what_cannot_be_sent_takes_no_tag() {
        let mut window = Window::default();
        window.push(slice(0..3));
        window.sent();
        window.unsendable();
        window.sent();
        window.ack(2, false).unwrap();
        window.ack(1, false).unwrap();
        assert_eq!(window.take_durable(), 1);
        window.release(1);
        assert_eq!(window.take_durable(), 2);
    }

    proptest! {
        /// Against the plainest model: a vector of flags.
        #[test]
        fn any_order_of_acks_gives_the_prefix_of_the_model(
            steps in proptest::collection::vec((any::<u8>(), any::<bool>(), 0u8..4), 1..200)
        ) {
            let mut window = Window::default();
            let mut model: Vec<u8> = vec![]; // 0 open, 1 stored, 2 rejected
            let mut tags: Vec<Option<usize>> = vec![]; // tag - 1 → index
            let mut reported = 0usize;
            for (pick, multiple, kind) in steps {
                match kind {
                    0 | 1 => {
                        window.push(slice([model.len() as u64]));
                        if kind == 1 && pick % 5 == 0 {
                            window.unsendable();
                            model.push(2);
                        } else {
                            window.sent();
                            tags.push(Some(model.len()));
                            model.push(0);
                        }
                    }
                    _ if tags.is_empty() => {}
                    2 => {
                        let tag = pick as usize % tags.len();
                        window.ack(tag as u64 + 1, multiple).unwrap();
                        for index in tags[if multiple { 0 } else { tag }..=tag].iter().flatten() {
                            if model[*index] == 0 { model[*index] = 1 }
                        }
                    }
                    _ => {
                        let wanted = pick as usize % model.len();
                        let found = window.returned(|m| *m.id.0 == *wanted.to_string());
                        if wanted >= reported && model[wanted] == 0 {
                            prop_assert_eq!(found, Some(wanted as u64));
                            model[wanted] = 2;
                        } else {
                            prop_assert_eq!(found, None);
                        }
                    }
                }
                let expected = model[reported..].iter().take_while(|s| **s == 1).count();
                prop_assert_eq!(window.take_durable(), expected);
                reported += expected;
                prop_assert_eq!(window.open(), model.iter().filter(|s| **s == 0).count());
            }
        }
    }
}
