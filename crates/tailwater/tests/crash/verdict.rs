//! What arrived, held against what was committed.

use crate::harness::bound;
use std::collections::{HashMap, HashSet};
use testbed::Committed;

pub struct Verdict {
    committed: HashMap<String, Committed>,
    /// Ids in order of arrival.
    arrived: Vec<String>,
    missing: usize,
    invented: usize,
    duplicates: usize,
}

impl Verdict {
    /// `arrived`: ids in order of arrival.
    pub fn new(committed: Vec<Committed>, arrived: Vec<String>) -> Verdict {
        let committed: HashMap<String, Committed> =
            committed.into_iter().map(|row| (row.id.to_string(), row)).collect();
        let distinct: HashSet<&String> = arrived.iter().collect();
        let missing = committed.keys().filter(|id| !distinct.contains(id)).count();
        let invented = distinct.iter().filter(|id| !committed.contains_key(**id)).count();
        let duplicates = arrived.len() - distinct.len();
        Verdict { missing, invented, duplicates, committed, arrived }
    }

    /// One line of numbers, then the assertions: all that was committed arrived, nothing else did, no more duplicates
    /// than so many crashes may cause, and the first arrivals of each key in order of commit.
    pub fn judge(&self, story: &str, crashes: usize) {
        println!(
            "committed = {}, missing = {}, duplicates = {}, bound = {}: {story}",
            self.committed.len(),
            self.missing,
            self.duplicates,
            bound(crashes),
        );
        assert_eq!((self.missing, self.invented), (0, 0), "(missing, invented) of {} events", self.committed.len());
        let bound = bound(crashes);
        assert!(self.duplicates <= bound, "{} duplicates, more than {bound}", self.duplicates);
        self.assert_order();
    }

    /// The same, and nothing came twice.
    pub fn judge_exactly_once(&self, story: &str) {
        println!(
            "committed = {}, missing = {}, duplicates = {}: {story}",
            self.committed.len(),
            self.missing,
            self.duplicates
        );
        assert_eq!((self.missing, self.invented, self.duplicates), (0, 0, 0), "(missing, invented, duplicates)");
        self.assert_order();
    }

    fn assert_order(&self) {
        let mut seen = HashSet::new();
        let mut last: HashMap<&str, i64> = HashMap::new();
        for row in self.arrived.iter().filter(|id| seen.insert(id.as_str())).filter_map(|id| self.committed.get(id)) {
            if let Some(before) = last.insert(&row.key, row.seq) {
                assert!(before < row.seq, "key {}: number {} arrived after {before}", row.key, row.seq);
            }
        }
    }
}
