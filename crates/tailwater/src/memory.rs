//! One memory limit over all pipelines of a process (`memory_bytes`), granted before reading.
//!
//! Half of the limit is a reserve, cut into equal floors; the other half is a pool. A running pipeline may always hold its
//! floor. Beyond it, it may take from the pool as long as it holds no more of it than it leaves free: a pipeline that is
//! blocked takes half of the pool at most, two take two thirds, and there is always something left for the others.
//!
//! ```text
//!   floor = limit / 512 (at most 1 MiB)      pool = limit / 2
//!   a pipeline that holds h has taken p = h - floor from the pool (not below 0), and may go up to p ≤ free pool after it
//! ```
//!
//! Whoever gets no room holds more than its floor itself, so its own results make room for it: nobody waits for another
//! pipeline, and there is no deadlock. What is waited for in an idle pipeline fits into its floor: it takes nothing from the
//! pool. Not here: the limit of a single pipeline (`delivery.memory_bytes`, the ledger), and a single row above all limits,
//! which is read alone all the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// At most so much is granted at once: a source's batch is not larger (`sources/postgres/stream.rs`).
pub const GRANT_BYTES: usize = 256 << 10;
const FLOOR_MAX_BYTES: usize = 1 << 20;
const FLOORS: usize = 256;

/// The arithmetic, without locks.
#[derive(Debug)]
pub struct Budget {
    floor: usize,
    pool: usize,
    /// Held or granted beyond floors, over all parties.
    pooled: usize,
    parties: usize,
}

/// What one pipeline holds, bytes.
#[derive(Debug, Default)]
pub struct Party {
    held: usize,
    /// May arrive at any moment: its source is reading.
    granted: usize,
}

impl Budget {
    /// `limit_bytes`: over all pipelines.
    pub fn new(limit_bytes: usize) -> Self {
        let floor = (limit_bytes / (2 * FLOORS)).clamp(1, FLOOR_MAX_BYTES);
        Budget { floor, pool: limit_bytes / 2, pooled: 0, parties: 0 }
    }

    /// So many pipelines have a floor each.
    pub fn parties_max(&self) -> usize {
        self.pool / self.floor
    }

    /// One more; `None` when the reserve is given away.
    pub fn join(&mut self) -> Option<Party> {
        (self.parties < self.parties_max()).then(|| {
            self.parties += 1;
            Party::default()
        })
    }

    /// All that it held is free again.
    pub fn leave(&mut self, party: &Party) {
        self.pooled -= self.beyond(party);
        self.parties -= 1;
    }

    /// The party holds `held` bytes and wants to read `wanted` more: it may read so much, now. Replaces its last grant; with
    /// `wanted` = 0 it reads nothing.
    pub fn grant(&mut self, party: &mut Party, held: usize, wanted: usize) -> Option<usize> {
        self.pooled -= self.beyond(party);
        let free = self.pool.saturating_sub(self.pooled);
        let most = self.floor + free / 2;
        let room = most.saturating_sub(held).min(wanted).min(GRANT_BYTES);
        // crumbs would make batches of single rows
        let crumb = room < wanted && room < self.floor / 8;
        *party = Party { held, granted: if crumb { 0 } else { room } };
        self.pooled += self.beyond(party);
        Some(party.granted).filter(|room| *room > 0)
    }

    fn beyond(&self, party: &Party) -> usize {
        (party.held + party.granted).saturating_sub(self.floor)
    }
}

/// The limit, shared by all pipelines.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mutex<Budget>>);

impl Memory {
    pub fn new(limit_bytes: usize) -> Self {
        Memory(Arc::new(Mutex::new(Budget::new(limit_bytes))))
    }

    /// A running pipeline's part. `None`: too many pipelines for this limit.
    pub fn join(&self) -> Option<Share> {
        let party = self.lock().join()?;
        Some(Share { memory: Some(self.clone()), party })
    }

    /// So many pipelines may run at once.
    pub fn parties_max(&self) -> usize {
        self.lock().parties_max()
    }

    /// A pipeline that panicked elsewhere must not take the others with it: the numbers are whole between any two calls.
    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pipeline's part of the memory; given back when dropped.
#[derive(Debug)]
pub struct Share {
    memory: Option<Memory>,
    party: Party,
}

impl Share {
    /// For a pipeline that shares with nobody: its own limit counts alone.
    pub fn alone() -> Self {
        Share { memory: None, party: Party::default() }
    }

    /// See [`Budget::grant`].
    pub fn grant(&mut self, held: usize, wanted: usize) -> Option<usize> {
        match &self.memory {
            Some(memory) => memory.lock().grant(&mut self.party, held, wanted),
            None => Some(wanted).filter(|room| *room > 0),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.lock().leave(&self.party);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        Leave(usize),
        /// Asks to read so much more.
        Ask(usize, usize),
        /// So much of what was granted arrives.
        Read(usize, usize),
        /// So much of what is held is settled.
        Settle(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = 0..40_usize;
        let size = 0..4 * MIB;
        let step = prop_oneof![
            1 => Just(Step::Join),
            1 => who.clone().prop_map(Step::Leave),
            6 => (who.clone(), size.clone()).prop_map(|(who, bytes)| Step::Ask(who, bytes)),
            6 => (who.clone(), size.clone()).prop_map(|(who, bytes)| Step::Read(who, bytes)),
            3 => (who, size).prop_map(|(who, bytes)| Step::Settle(who, bytes)),
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        /// Whatever happens: all together stay within the limit, who holds nothing may always read, and nothing is left over.
        #[test]
        fn the_limit_holds_and_nobody_starves(limit_mib in 1..64_usize, steps in steps()) {
            let limit = limit_mib * MIB;
            let mut budget = Budget::new(limit);
            let mut parties: Vec<Party> = Vec::new();
            for step in steps {
                match step {
                    Step::Join => parties.extend(budget.join()),
                    Step::Leave(who) if who < parties.len() => budget.leave(&parties.swap_remove(who)),
                    Step::Ask(who, bytes) if who < parties.len() => {
                        let party = &mut parties[who];
                        let (held, floor) = (party.held, budget.floor);
                        let room = budget.grant(party, held, bytes);
                        prop_assert!(room.is_none_or(|room| room <= bytes && room <= GRANT_BYTES));
                        let sure = bytes.min(floor / 2).min(GRANT_BYTES);
                        prop_assert!(held > floor / 2 || room.unwrap_or(0) >= sure, "{held} held, {room:?} of {bytes}");
                    }
                    Step::Read(who, bytes) if who < parties.len() => {
                        let party = &mut parties[who];
                        let held = party.held + bytes.min(party.granted);
                        budget.grant(party, held, 0);
                    }
                    Step::Settle(who, bytes) if who < parties.len() => {
                        let party = &mut parties[who];
                        let held = party.held.saturating_sub(bytes);
                        let granted = party.granted;
                        budget.grant(party, held, granted);
                    }
                    _ => {}
                }
                let total: usize = parties.iter().map(|party| party.held + party.granted).sum();
                prop_assert!(total <= limit, "{total} of {limit}");
            }
            for party in &parties {
                budget.leave(party);
            }
            prop_assert_eq!((budget.pooled, budget.parties), (0, 0));
        }
    }

    fn fill(budget: &mut Budget, party: &mut Party) -> usize {
        while let Some(room) = budget.grant(party, party.held, usize::MAX) {
            budget.grant(party, party.held + room, 0);
        }
        party.held
    }

    /// The arithmetic of the documentation: blocked pipelines one after the other.
    #[test]
    fn the_blocked_leave_something_and_those_who_hold_nothing_have_their_floor() {
        let mut budget = Budget::new(256 * MIB);
        let mut parties: Vec<Party> = (0..200).map(|_| budget.join().unwrap()).collect();
        let held: Vec<usize> = parties.iter_mut().map(|party| fill(&mut budget, party)).collect();
        assert!((63 * MIB..=65 * MIB).contains(&held[0]), "the first takes half of the pool: {}", held[0]);
        assert!((31 * MIB..=33 * MIB).contains(&held[1]), "the second a quarter: {}", held[1]);
        assert!(held.iter().all(|held| *held >= MIB / 4), "the last has its floor: {}", held[199]);
        assert!(held.iter().sum::<usize>() <= 256 * MIB);
        assert_eq!(budget.parties_max(), 256);
    }

    /// A single row above all limits: its pipeline reads nothing more until it is settled, others keep their floors.
    #[test]
    fn a_row_above_the_limit_blocks_its_own_pipeline_only() {
        let mut budget = Budget::new(16 * MIB);
        let (mut huge, mut other) = (budget.join().unwrap(), budget.join().unwrap());
        assert_eq!(budget.grant(&mut huge, 100 * MIB, MIB), None);
        assert!(budget.grant(&mut other, 0, MIB).is_some_and(|room| room >= budget.floor));
        assert!(budget.grant(&mut huge, 0, MIB).is_some());
        budget.leave(&huge);
        budget.leave(&other);
        assert_eq!(budget.pooled, 0);
    }

    #[test]
    fn there_are_as_many_parties_as_floors_and_who_leaves_makes_room() {
        let memory = Memory::new(16 * MIB);
        let mut shares: Vec<Share> = std::iter::from_fn(|| memory.join()).collect();
        assert_eq!(shares.len(), memory.parties_max());
        shares.pop();
        assert!(memory.join().is_some());
    }
}
