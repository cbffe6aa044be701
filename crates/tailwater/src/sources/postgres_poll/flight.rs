//! Rows between fetching and being done with: which they are, in which batch, of which share. Pure.

use super::table::SHARES;
use std::collections::{BTreeSet, HashSet, VecDeque};

/// A row on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flying {
    pub order: i64,
    pub share: usize,
}

/// All rows on their way.
#[derive(Debug, Default)]
pub(super) struct Flight {
    rows: HashSet<i64>,
    per_share: [usize; SHARES],
    batches: VecDeque<(u64, Vec<Flying>)>,
    handed: u64,
    /// Shares that we own, and of them those that are being given back: nothing is fetched of these any more.
    owned: BTreeSet<usize>,
    leaving: BTreeSet<usize>,
}

impl Flight {
    /// A row was fetched. False: it is on its way already.
    pub fn fetched(&mut self, row: Flying) -> bool {
        let new = self.rows.insert(row.order);
        self.per_share[row.share] += usize::from(new);
        new
    }

    /// The row is on its way.
    pub fn holds(&self, order: i64) -> bool {
        self.rows.contains(&order)
    }

    /// A batch is handed over; its number.
    pub fn hand_over(&mut self, rows: Vec<Flying>) -> u64 {
        self.handed += 1;
        self.batches.push_back((self.handed, rows));
        self.handed
    }

    /// Everything up to batch `number` is safe. The rows that may be done with, and whether none is left on its way.
    pub fn confirmed(&mut self, number: u64) -> (Vec<Flying>, bool) {
        let mut rows = Vec::new();
        while self.batches.front().is_some_and(|(batch, _)| *batch <= number) {
            rows.extend(self.batches.pop_front().into_iter().flat_map(|(_, rows)| rows));
        }
        (rows, number == self.handed)
    }

    /// The database has done with them.
    pub fn gone(&mut self, rows: &[Flying]) {
        for row in rows {
            if self.rows.remove(&row.order) {
                self.per_share[row.share] -= 1;
            }
        }
    }

    /// How many rows on their way lie in these ranges (ascending).
    pub fn within(&self, ranges: &[(i64, i64)]) -> usize {
        let is_in = |order: i64| {
            let at = ranges.partition_point(|(_, high)| *high < order);
            ranges.get(at).is_some_and(|(low, _)| *low <= order)
        };
        self.rows.iter().filter(|order| is_in(**order)).count()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn gain(&mut self, share: usize) {
        self.owned.insert(share);
    }

    /// Stops fetching of the surplus, and says which of those that are being given back have nothing on its way any more.
    pub fn shrink_to(&mut self, count: usize) -> Vec<usize> {
        let surplus = self.owned.len().saturating_sub(count);
        self.leaving = self.owned.iter().rev().take(surplus).copied().collect();
        self.leaving.iter().copied().filter(|share| self.per_share[*share] == 0).collect()
    }

    pub fn lose(&mut self, share: usize) {
        self.owned.remove(&share);
        self.leaving.remove(&share);
    }

    pub fn owned(&self) -> &BTreeSet<usize> {
        &self.owned
    }

    /// Shares to fetch of.
    pub fn active(&self) -> Vec<usize> {
        self.owned.difference(&self.leaving).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(order: i64) -> Flying {
        Flying { order, share: order as usize % SHARES }
    }

    #[test]
    fn a_row_is_on_its_way_until_the_database_has_done_with_it() {
        let mut flight = Flight::default();
        assert!([row(1), row(2), row(3)].into_iter().all(|row| flight.fetched(row)));
        assert!(!flight.fetched(row(2)), "it is on its way already");
        let first = flight.hand_over(vec![row(1), row(2)]);
        let second = flight.hand_over(vec![row(3)]);
        assert_eq!(flight.confirmed(first), (vec![row(1), row(2)], false));
        assert_eq!(flight.len(), 3, "confirmed is not done with");
        flight.gone(&[row(1), row(2)]);
        assert_eq!((flight.within(&[(0, 2), (4, 9)]), flight.within(&[(0, 2), (3, 3)])), (0, 1));
        assert_eq!(flight.confirmed(second), (vec![row(3)], true));
    }

    /// T5: a share changes hands only when nothing of it is on its way.
    #[test]
    fn a_share_is_given_back_only_when_it_is_empty() {
        let mut flight = Flight::default();
        (0..SHARES).for_each(|share| flight.gain(share));
        let last = row(SHARES as i64 - 1);
        assert!(flight.fetched(last));
        let free = flight.shrink_to(SHARES / 2);
        assert_eq!(free.len(), SHARES / 2 - 1, "the one with a row on its way has to wait");
        assert_eq!(flight.active().len(), SHARES / 2, "but nothing more is fetched of it");
        flight.gone(&[last]);
        assert_eq!(flight.shrink_to(SHARES / 2).len(), SHARES / 2);
        assert_eq!(flight.shrink_to(SHARES), Vec::<usize>::new(), "and it may stay after all");
        assert_eq!(flight.active().len(), SHARES);
    }
}
