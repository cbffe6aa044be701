//! The ledger against a model that is too simple to be wrong: a list of open counts.

use proptest::collection::vec;
use proptest::prelude::*;
use tailwater_core::Position;
use tailwater_core::ledger::Ledger;

fn position(number: usize) -> Position {
    Position::new(format!("{number:04}"))
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        messages: usize,
        bytes: usize,
    },
    /// Settles `share` of what is open in one of the entries in flight.
    Settle {
        entry: prop::sample::Index,
        share: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let open = (0..5_usize, 0..400_usize).prop_map(|(messages, bytes)| Step::Open { messages, bytes });
    let settle = (any::<prop::sample::Index>(), 1..4_usize).prop_map(|(entry, share)| Step::Settle { entry, share });
    vec(prop_oneof![2 => open, 3 => settle], 0..120)
}

/// What a step-by-step run must agree with: per entry the messages still open, and its bytes.
#[derive(Default)]
struct Model {
    entries: Vec<(usize, usize)>,
}

impl Model {
    /// Entries from the front without an open message.
    fn settled_prefix(&self) -> usize {
        self.entries.iter().take_while(|(open, _)| *open == 0).count()
    }

    fn held_bytes(&self) -> usize {
        self.entries[self.settled_prefix()..].iter().map(|(_, bytes)| bytes).sum()
    }

    fn in_flight(&self) -> usize {
        self.entries.iter().map(|(open, _)| open).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// T8, T9, T12: the safe position is the end of the contiguous settled run, whatever the order of settling.
    #[test]
    fn the_safe_position_never_passes_an_open_message(steps in steps()) {
        const LIMIT: usize = 1000;
        let (mut ledger, mut model, mut ids) = (Ledger::new(LIMIT), Model::default(), Vec::new());
        let mut safe = None;
        for step in steps {
            match step {
                Step::Open { messages, bytes } => {
                    ids.push(ledger.open(position(ids.len()), messages, bytes));
                    model.entries.push((messages, if messages == 0 { 0 } else { bytes }));
                }
                Step::Settle { entry, share } => {
                    let open: Vec<usize> = (0..ids.len()).filter(|i| model.entries[*i].0 > 0).collect();
                    if open.is_empty() {
                        continue;
                    }
                    let chosen = open[entry.index(open.len())];
                    let count = share.min(model.entries[chosen].0);
                    ledger.settle(ids[chosen], count);
                    model.entries[chosen].0 -= count;
                }
            }
            safe = ledger.take_safe().or(safe);
            prop_assert_eq!(&safe, &model.settled_prefix().checked_sub(1).map(position));
            prop_assert_eq!(ledger.take_safe(), None, "a position is handed out once");
            prop_assert_eq!(ledger.in_flight(), model.in_flight());
            prop_assert_eq!(ledger.in_flight_bytes(), model.held_bytes());
            prop_assert_eq!(ledger.is_empty(), model.settled_prefix() == model.entries.len());
            prop_assert_eq!(ledger.room(), LIMIT.checked_sub(model.held_bytes()).filter(|room| *room > 0));
        }
    }
}

/// T12: a keepalive's position waits behind a delivery in flight, and is there at once when that is settled.
#[test]
fn idle_progress_waits_for_what_is_in_flight() {
    let mut ledger = Ledger::new(100);
    let batch = ledger.open(position(1), 2, 10);
    ledger.open(position(2), 0, 0);
    assert_eq!(ledger.take_safe(), None);
    ledger.settle(batch, 1);
    assert_eq!(ledger.take_safe(), None);
    ledger.settle(batch, 1);
    assert_eq!(ledger.take_safe(), Some(position(2)));
    ledger.open(position(3), 0, 0);
    assert_eq!(ledger.take_safe(), Some(position(3)), "with nothing in flight it is safe at once");
}

/// T8: e3 is confirmed, e1 never: the position stays before e1.
#[test]
fn the_last_one_settled_first_moves_nothing() {
    let mut ledger = Ledger::new(100);
    let ids: Vec<_> = (0..3).map(|i| ledger.open(position(i), 1, 1)).collect();
    ledger.settle(ids[2], 1);
    ledger.settle(ids[1], 1);
    assert_eq!(ledger.take_safe(), None);
    assert_eq!(ledger.in_flight_bytes(), 3, "what is not confirmable still holds its memory");
}

#[test]
#[should_panic(expected = "settled more messages than the batch had")]
fn settling_too_much_is_a_bug_and_a_crash() {
    let mut ledger = Ledger::new(100);
    let id = ledger.open(position(0), 1, 1);
    ledger.settle(id, 2);
}

#[test]
#[should_panic(expected = "has left the ledger")]
fn settling_twice_is_a_bug_and_a_crash() {
    let mut ledger = Ledger::new(100);
    let id = ledger.open(position(0), 1, 1);
    ledger.settle(id, 1);
    ledger.settle(id, 1);
}

#[test]
fn a_row_above_the_limit_fills_the_ledger_and_leaves_it() {
    let mut ledger = Ledger::new(100);
    let id = ledger.open(position(0), 1, 5000);
    assert_eq!(ledger.room(), None);
    ledger.settle(id, 1);
    assert_eq!(ledger.room(), Some(100));
}
