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
