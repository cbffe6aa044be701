//! What survives a crash of the relay — the log, the broker's queues, the saved and the confirmed position — and the
//! oracles that watch it.
//!
//! The database's log is a list of numbered records; position `n` means "everything below n". All chance comes from one
//! seeded generator, all time from tokio's paused clock, so a seed always tells the same story.

use super::broker::Connection;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tailwater_core::Position;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be published.
    Event,
    /// The broker has no queue for it until the faults are over.
    Unroutable,
    /// The broker closes the connection over it: what came before is stored, what came after is not.
    Poison,
    /// Not for publishing, by rule.
    Filtered,
    /// The router cannot make a message of it: only ever good for the dead letters.
    Unreadable,
    /// Other traffic in the log: idle progress.
    Foreign,
}

#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub kind: Kind,
    pub key: Option<u8>,
    pub bytes: usize,
}

impl Record {
    pub fn is_for_us(&self) -> bool {
        !matches!(self.kind, Kind::Filtered | Kind::Foreign)
    }
}

/// Which faults happen, each with its probability per occasion.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The connection breaks while a message is on its way.
    pub cut: f64,
    /// A connection lives only seconds, busy or not.
    pub idle_cut: f64,
    /// The message is stored, the reply is lost with the connection.
    pub lose_reply: f64,
    /// The reply takes seconds.
    pub hold: f64,
    /// The message is refused, this once.
    pub refuse: f64,
    pub open_fails: f64,
    pub source_fails: f64,
    pub save_fails: f64,
    /// The position is saved, the answer says otherwise.
    pub save_lies: f64,
    pub save_slow: f64,
    pub confirm_fails: f64,
    /// An operator must act: the process ends and is started again.
    pub fatal: f64,
}

impl Faults {
    /// Each kind off half of the time.
    pub fn random(rng: &mut StdRng) -> Self {
        let mut chance = |most: f64| if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..most) };
        Faults {
            cut: chance(0.1),
            idle_cut: chance(0.5),
            lose_reply: chance(0.1),
            hold: chance(0.1),
            refuse: chance(0.1),
            open_fails: chance(0.4),
            source_fails: chance(0.1),
            save_fails: chance(0.5),
            save_lies: chance(0.3),
            save_slow: chance(0.5),
            confirm_fails: chance(0.5),
            fatal: chance(0.01),
        }
    }
}

/// How one seed's run is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub faults: Faults,
    pub log: Vec<Record>,
    pub dead_letters: bool,
    pub strict: bool,
    /// Unconfirmed messages of one connection at most.
    pub window: usize,
    pub memory_bytes: usize,
}

pub struct World {
    state: Mutex<State>,
    /// The process is to be dropped now.
    pub crash: Notify,
    /// A violation, or everything is saved.
    pub news: Notify,
}

pub struct State {
    pub rng: StdRng,
    pub setup: Setup,
    /// Faults are over.
    pub calm: bool,
    pub connections: Vec<Connection>,
    /// Record numbers in order of arrival at the broker.
    pub arrivals: Vec<usize>,
    pub delivered: Vec<bool>,
    pub dead: Vec<bool>,
    /// The broker refused it at least once.
    pub refused: Vec<bool>,
    pub saved: Option<usize>,
    pub confirmed: usize,
    /// Counts starts of the process: what an older one still tries happens no more.
    pub generation: u64,
    pub steps: u64,
    crash_at: Option<u64>,
    /// Batches handed out by this process: (first record, end, bytes).
    pub handed: Vec<(usize, usize, usize)>,
    /// First record that is for us and has arrived nowhere.
    first_missing: usize,
    /// A fault ended the process in the way a real one would.
    pub fatal_injected: bool,
    pub violation: Option<String>,
    trace: Vec<(Duration, String)>,
    origin: Instant,
}

impl World {
    pub fn new(seed: u64, setup: Setup) -> Arc<Self> {
        let records = setup.log.len();
        let state = State {
            rng: StdRng::seed_from_u64(seed ^ 0x7461_696c),
            setup,
            calm: false,
            connections: Vec::new(),
            arrivals: Vec::new(),
            delivered: vec![false; records],
            dead: vec![false; records],
            refused: vec![false; records],
            saved: None,
            confirmed: 0,
            generation: 0,
            steps: 0,
            crash_at: None,
            handed: Vec::new(),
            first_missing: 0,
            fatal_injected: false,
            violation: None,
            trace: Vec::new(),
            origin: Instant::now(),
        };
        Arc::new(World { state: Mutex::new(state), crash: Notify::new(), news: Notify::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A new process; `crash_at` steps from now it dies, at exactly that await point.
    pub fn start(&self, crash_at: Option<u64>) {
        let mut state = self.lock();
        state.generation += 1;
        state.steps = 0;
        state.crash_at = crash_at;
        state.handed.clear();
        state.fatal_injected = false;
        let (generation, saved) = (state.generation, state.saved);
        state.note(format!("start of process {generation}, saved {saved:?}"));
    }

    /// An await point at which the process may die. What an older process still tries never comes back.
    pub async fn step(&self, generation: u64) {
        let dies = {
            let mut state = self.lock();
            let stale = generation != state.generation;
            state.steps += u64::from(!stale);
            if state.steps > 100_000 {
                state.violate("no end in sight after 100,000 steps".into());
            }
            if state.violation.is_some() {
                self.news.notify_one();
            }
            let now = !stale && state.crash_at == Some(state.steps);
            if now {
                state.note("crash".into());
                self.crash.notify_one();
            }
            now || stale || state.crash_at.is_some_and(|at| at < state.steps)
        };
        if dies {
            pending::<()>().await;
        }
    }

    /// Returns once the last position is saved and confirmed, or an oracle has spoken.
    pub async fn finished(&self) {
        loop {
            {
                let state = self.lock();
                let end = state.setup.log.len();
                if state.violation.is_some() || (state.saved == Some(end) && state.confirmed == end) {
                    return;
                }
            }
            self.news.notified().await;
        }
    }
}

impl State {
    pub fn chance(&mut self, pick: impl Fn(&Faults) -> f64) -> bool {
        let probability = pick(&self.setup.faults);
        !self.calm && probability > 0.0 && self.rng.random_bool(probability)
    }

    /// Somebody mended the configuration: without dead letters the only way past an event that is unreadable.
    pub fn reads_all(&self) -> bool {
        self.calm && !self.setup.dead_letters
    }

    pub fn delay(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=most_ms))
    }

    pub fn note(&mut self, what: String) {
        let at = self.origin.elapsed();
        self.trace.push((at, what));
    }

    /// The first thing that must not happen decides.
    pub fn violate(&mut self, what: String) {
        self.note(format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// The last lines of the story.
    pub fn story(&self, lines: usize) -> String {
        let skip = self.trace.len().saturating_sub(lines);
        self.trace[skip..].iter().map(|(at, what)| format!("{:>10.3} s  {what}\n", at.as_secs_f64())).collect()
    }

    fn settled(&self, record: usize) -> bool {
        !self.setup.log[record].is_for_us() || self.delivered[record] || (self.dead[record] && self.setup.dead_letters)
    }

    fn first_missing(&mut self) -> usize {
        while self.first_missing < self.setup.log.len() && self.settled(self.first_missing) {
            self.first_missing += 1;
        }
        self.first_missing
    }

    /// Oracle: nothing before a position that is about to be saved is missing at the broker; positions never go back.
    pub fn check_save(&mut self, position: usize) {
        let missing = self.first_missing();
        if position > missing {
            self.violate(format!("saves {position} while record {missing} has not arrived"));
        }
        if self.saved.is_some_and(|saved| position < saved) {
            self.violate(format!("saves {position} after {:?}", self.saved));
        }
    }

    /// Oracle: confirmed never beyond saved, never back.
    pub fn check_confirm(&mut self, position: usize) {
        if self.saved.is_none_or(|saved| position > saved) {
            self.violate(format!("confirms {position} while {:?} is saved", self.saved));
        }
        if position < self.confirmed {
            self.violate(format!("confirms {position} after {}", self.confirmed));
        }
    }

    /// Oracle: what is in flight and what is granted stay within the limit. Counts only batches that cannot have been
    /// released: from the first one with a record that arrived nowhere.
    pub fn check_room(&mut self, room: usize) {
        let settled = |batch: &(usize, usize, usize)| (batch.0..batch.1).all(|record| self.settled(record));
        let held: usize = self.handed.iter().skip_while(|batch| settled(batch)).map(|batch| batch.2).sum();
        let limit = self.setup.memory_bytes;
        let alone = self.handed.iter().skip_while(|batch| settled(batch)).count() == 0;
        if held.saturating_add(room) > limit && !(alone && room <= limit) {
            self.violate(format!("grants {room} bytes with {held} in flight, limit {limit}"));
        }
    }

    /// Oracles over the whole story: order per key of first occurrences, everything arrived, nothing in vain.
    pub fn check_end(&mut self) {
        let log = self.setup.log.clone();
        let end = log.len();
        if self.saved != Some(end) || self.confirmed != end {
            let (saved, confirmed) = (self.saved, self.confirmed);
            self.violate(format!("ends with {saved:?} saved and {confirmed} confirmed of {end}"));
        }
        let missing = self.first_missing();
        if missing < end {
            self.violate(format!("record {missing} never arrived"));
        }
        let refusals_excuse = self.setup.dead_letters || !self.setup.strict;
        let mut last_of_key: BTreeMap<u8, usize> = BTreeMap::new();
        let mut seen = vec![false; end];
        for record in self.arrivals.clone() {
            let Some(key) = log[record].key else { continue };
            if std::mem::replace(&mut seen[record], true) || (refusals_excuse && self.refused[record]) {
                continue;
            }
            if let Some(before) = last_of_key.insert(key, record)
                && before > record
            {
                self.violate(format!("key {key}: record {record} arrives first after record {before}"));
            }
        }
        for (record, Record { kind, .. }) in log.iter().enumerate() {
            let for_dead_letters = self.refused[record] || *kind == Kind::Unreadable;
            if self.dead[record] && !(for_dead_letters && self.setup.dead_letters) {
                self.violate(format!("record {record} is a dead letter, and nobody refused it"));
            }
        }
    }
}

/// `n` → position "n".
pub fn position(number: usize) -> Position {
    Position::new(number.to_string())
}

/// Position "n" → `n`.
pub fn number(position: &Position) -> usize {
    position.as_str().parse().expect("only positions of this world are in it")
}
