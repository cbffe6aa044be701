//! The messages of one publisher that are pushed and not yet reported. Pure.
//!
//! ```text
//!   push ─▶ waiting ─sent─▶ open ─delivered─▶ stored ──┐ leaves as part of the durable prefix
//!              └─── reject ───┴──▶ rejected ───────────┴─ after release()
//! ```
//! Deliveries of several partitions come in any order: durable is what lies before the first that is not stored.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Stored,
    Rejected,
}

/// See the module. Indexes count from 0 at the opening of the publisher.
#[derive(Debug, Default)]
pub struct Window {
    entries: VecDeque<State>,
    /// Index of the front entry.
    first: u64,
    open: usize,
}

impl Window {
    pub fn push(&mut self, count: usize) {
        self.entries.extend(std::iter::repeat_n(State::Waiting, count));
    }

    /// Sent and not yet delivered.
    pub fn open(&self) -> usize {
        self.open
    }

    fn at(&mut self, index: u64) -> &mut State {
        let place = index.checked_sub(self.first).expect("an index in the window") as usize;
        self.entries.get_mut(place).expect("an index in the window")
    }

    pub fn sent(&mut self, index: u64) {
        let state = self.at(index);
        assert_eq!(*state, State::Waiting, "a message is sent once");
        *state = State::Open;
        self.open += 1;
    }

    pub fn delivered(&mut self, index: u64) {
        let state = self.at(index);
        assert_eq!(*state, State::Open, "a message is delivered once, and after it was sent");
        *state = State::Stored;
        self.open -= 1;
    }

    /// Published already, and not sent again.
    pub fn skip(&mut self, index: u64) {
        let state = self.at(index);
        assert_eq!(*state, State::Waiting, "what was sent is not skipped");
        *state = State::Stored;
    }

    /// All that was sent is durable together.
    pub fn store_open(&mut self) {
        for state in self.entries.iter_mut().filter(|state| **state == State::Open) {
            *state = State::Stored;
        }
        self.open = 0;
    }

    pub fn reject(&mut self, index: u64) {
        let state = self.at(index);
        assert!(matches!(*state, State::Waiting | State::Open), "a message is refused once");
        if std::mem::replace(state, State::Rejected) == State::Open {
            self.open -= 1;
        }
    }

    /// A rejected message is durable elsewhere.
    pub fn release(&mut self, index: u64) {
        let state = self.at(index);
        assert_eq!(*state, State::Rejected, "only what was refused is released");
        *state = State::Stored;
    }

    /// Takes the durable prefix off.
    pub fn take_durable(&mut self) -> usize {
        let count = self.entries.iter().take_while(|state| **state == State::Stored).count();
        self.entries.drain(..count);
        self.first += count as u64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prefix_is_durable_whatever_the_order_of_partitions() {
        let mut window = Window::default();
        window.push(4);
        (0..4).for_each(|i| window.sent(i));
        window.delivered(2);
        window.delivered(1);
        assert_eq!((window.take_durable(), window.open()), (0, 2));
        window.delivered(0);
        assert_eq!((window.take_durable(), window.entries.len()), (3, 1));
    }

    #[test]
    fn a_refused_message_stops_the_prefix_until_it_is_released() {
        let mut window = Window::default();
        window.push(3);
        window.sent(0);
        window.reject(1);
        window.sent(2);
        window.delivered(0);
        window.delivered(2);
        assert_eq!((window.take_durable(), window.take_durable()), (1, 0));
        window.release(1);
        assert_eq!((window.take_durable(), window.entries.len()), (2, 0));
    }
}
