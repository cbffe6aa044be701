//! Numbers and states for Prometheus, `/api/v1/status` and the health checks: one [`Status`] per pipeline.
//!
//! Written by the loop, the source and the sink; read by the HTTP port. Nothing here decides anything.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tailwater_core::Position;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a pipeline is doing, in words an operator acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    #[default]
    Starting,
    /// The slot is being created and waits for open transactions.
    WaitingForTransactions {
        pids: Vec<i32>,
    },
    /// Rows from before the first start are being published.
    Snapshot {
        rows: u64,
    },
    Streaming,
    /// Another process holds the slot.
    Standby {
        holder: String,
    },
    /// An event was refused; nothing behind it is confirmed. Goes on by itself once the event is taken.
    Held {
        event: String,
        topic: String,
        reason: String,
    },
    /// A peer is away; trying again.
    Retrying {
        what: String,
        error: String,
    },
    Draining,
    /// By order: nothing is read, the source is kept.
    Paused,
    /// Ended by order.
    Stopped,
    /// Ended by an error that an operator must resolve.
    Failed {
        error: String,
        hint: String,
    },
    /// Events may be missing: see `hint`.
    GapPossible {
        error: String,
        hint: String,
    },
}

impl State {
    /// The state's name as in JSON: label of the metric.
    pub fn name(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::WaitingForTransactions { .. } => "waiting_for_transactions",
            State::Snapshot { .. } => "snapshot",
            State::Streaming => "streaming",
            State::Standby { .. } => "standby",
            State::Held { .. } => "held",
            State::Retrying { .. } => "retrying",
            State::Draining => "draining",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Failed { .. } => "failed",
            State::GapPossible { .. } => "gap_possible",
        }
    }
}

/// Upper bounds of the commit-to-confirm histogram, seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0, 300.0];

/// From the commit in the database to the broker's confirm, as a cumulative-ready histogram.
#[derive(Debug, Default)]
pub struct Latency {
    /// Counts per bucket, the last one is "above all bounds".
    pub buckets: [AtomicU64; LATENCY_BUCKETS_S.len() + 1],
    pub sum_us: AtomicU64,
}

impl Latency {
    fn record(&self, latency_us: u64, count: u64) {
        let seconds = latency_us as f64 / 1e6;
        let bucket = LATENCY_BUCKETS_S.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BUCKETS_S.len());
        self.buckets[bucket].fetch_add(count, Relaxed);
        self.sum_us.fetch_add(latency_us.saturating_mul(count), Relaxed);
    }
}

/// A moment, kept without a lock; `None` until it was first touched.
#[derive(Debug)]
pub struct LastSeen {
    origin: Instant,
    /// ms since origin, plus one; 0 = never.
    ms: AtomicU64,
}

impl LastSeen {
    fn new(origin: Instant) -> Self {
        LastSeen { origin, ms: AtomicU64::new(0) }
    }

    /// It was seen just now.
    pub fn touch(&self) {
        self.ms.store(self.origin.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// It does not hold any more (connection gone).
    pub fn clear(&self) {
        self.ms.store(0, Relaxed);
    }

    /// It cannot be absent (a local sink): seen now, at any time.
    pub fn always(&self) {
        self.ms.store(u64::MAX, Relaxed);
    }

    /// How long ago it was seen.
    pub fn age(&self) -> Option<Duration> {
        let ms = self.ms.load(Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(ms)))
    }
}

/// Everything known about one pipeline.
#[derive(Debug)]
pub struct Status {
    pub name: String,
    state: watch::Sender<State>,
    /// What each lane in trouble waits for, by its number.
    topics: Mutex<BTreeSet<Arc<str>>>,
    troubles: Mutex<BTreeMap<u32, State>>,
    paused: AtomicBool,
    /// When a failed pipeline is tried again by itself.
    retry_at: Mutex<Option<Instant>>,
    /// What an operator should know although events flow.
    notice: Mutex<Option<String>>,
    /// Rows and messages read from the source.
    pub received: AtomicU64,
    /// Not for publishing, by rule.
    pub filtered: AtomicU64,
    /// Durable at the broker.
    pub published: AtomicU64,
    /// Sent once more after a failure of the connection.
    pub resent: AtomicU64,
    /// Refused by broker or router.
    pub rejected: AtomicU64,
    pub dead_lettered: AtomicU64,
    pub in_flight_messages: AtomicU64,
    pub in_flight_bytes: AtomicU64,
    /// End of WAL received from the source (data or keepalive); 0 = unknown. Set by the source.
    pub received_lsn: AtomicU64,
    /// End of WAL at the server as it last said. Set by the source.
    pub server_lsn: AtomicU64,
    /// LSN last reported to the server as flushed. Set by the source.
    pub confirmed_lsn: AtomicU64,
    saved: Mutex<Option<Position>>,
    /// Commit time of the oldest event not yet settled, µs since 1970; 0 = none.
    pub oldest_open_us: AtomicI64,
    /// The database answered: any message of the stream, any SQL answer. Touched by the source.
    pub source_seen: LastSeen,
    /// The broker was heard: any frame. Touched by the sink.
    pub sink_seen: LastSeen,
    /// The broker holds us back (`connection.blocked`).
    pub sink_blocked: AtomicBool,
    /// The loop's last progress of any kind (settled or read).
    pub progress: LastSeen,
    pub latency: Latency,
}

impl Status {
    pub fn new(name: impl Into<String>) -> Self {
        let origin = Instant::now();
        Status {
            name: name.into(),
            state: watch::Sender::new(State::Starting),
            topics: Mutex::default(),
            troubles: Mutex::new(BTreeMap::new()),
            paused: AtomicBool::new(false),
            retry_at: Mutex::new(None),
            notice: Mutex::new(None),
            received: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            published: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            in_flight_messages: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            received_lsn: AtomicU64::new(0),
            server_lsn: AtomicU64::new(0),
            confirmed_lsn: AtomicU64::new(0),
            saved: Mutex::new(None),
            oldest_open_us: AtomicI64::new(0),
            source_seen: LastSeen::new(origin),
            sink_seen: LastSeen::new(origin),
            sink_blocked: AtomicBool::new(false),
            progress: LastSeen::new(origin),
            latency: Latency::default(),
        }
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits for changes of state (tests, HTTP).
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Enters a state; says so in the log if it is another one. Not streaming as long as a lane is in trouble, or while it
    /// is paused.
    pub fn set_state(&self, state: State) {
        let state = match state {
            State::Streaming => self.worst_trouble().unwrap_or(State::Streaming),
            other => other,
        };
        let works = matches!(state, State::Streaming | State::Snapshot { .. });
        let state = if works && self.paused.load(Relaxed) { State::Paused } else { state };
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            if current.name() != state.name() {
                tracing::info!(pipeline = %self.name, from = current.name(), to = state.name(), "state changed");
            }
            *current = state;
            true
        });
    }

    /// Paused by order, or not any more; then it is in `resumed`. A state that needs an operator stays visible.
    pub fn set_paused(&self, paused: bool, resumed: State) {
        self.paused.store(paused, Relaxed);
        match self.state() {
            State::Starting | State::Snapshot { .. } | State::Streaming if paused => self.set_state(State::Paused),
            State::Paused if !paused => self.set_state(resumed),
            _ => {}
        }
    }

    /// It starts (again): what the last run held is gone. Counters go on.
    pub fn begin(&self) {
        self.troubles.lock().expect("no panic while the lock is held").clear();
        self.paused.store(false, Relaxed);
        self.set_retry_in(None);
        for gauge in [&self.in_flight_messages, &self.in_flight_bytes] {
            gauge.store(0, Relaxed);
        }
        self.oldest_open_us.store(0, Relaxed);
        self.sink_blocked.store(false, Relaxed);
        self.source_seen.clear();
        self.sink_seen.clear();
    }

    /// A failed pipeline is tried again after so long; `None`: not by itself.
    pub fn set_retry_in(&self, after: Option<Duration>) {
        *self.retry_at.lock().expect("no panic while the lock is held") = after.map(|after| Instant::now() + after);
    }

    /// How long until it is tried again by itself.
    pub fn retry_in(&self) -> Option<Duration> {
        let at = *self.retry_at.lock().expect("no panic while the lock is held");
        at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// What an operator should know although events flow; `None`: nothing any more.
    pub fn set_notice(&self, notice: Option<String>) {
        *self.notice.lock().expect("no panic while the lock is held") = notice;
    }

    pub fn notice(&self) -> Option<String> {
        self.notice.lock().expect("no panic while the lock is held").clone()
    }

    /// A lane cannot go on: it holds or tries again.
    pub fn trouble(&self, lane: u32, state: State) {
        self.troubles.lock().expect("no panic while the lock is held").insert(lane, state);
        if let Some(worst) = self.worst_trouble() {
            self.set_state(worst);
        }
    }

    /// A lane goes on. Leaves `Held` or `Retrying` when it was the last one in trouble.
    pub fn recovered(&self, lane: u32) {
        self.troubles.lock().expect("no panic while the lock is held").remove(&lane);
        if matches!(self.state(), State::Held { .. } | State::Retrying { .. } | State::Starting) {
            self.set_state(State::Streaming);
        }
    }

    /// As [`Status::recovered`], for one that does not know whether it was in trouble.
    pub fn recovered_if_troubled(&self, lane: u32) {
        if self.troubles.lock().expect("no panic while the lock is held").contains_key(&lane) {
            self.recovered(lane);
        }
    }

    /// A lane that holds counts more than one that tries again.
    fn worst_trouble(&self) -> Option<State> {
        let troubles = self.troubles.lock().expect("no panic while the lock is held");
        troubles.values().max_by_key(|state| matches!(state, State::Held { .. })).cloned()
    }

    /// A message goes to this topic.
    pub fn note_topic(&self, topic: &Arc<str>) {
        let mut topics = self.topics.lock().expect("no panic while the lock is held");
        if !topics.contains(topic) {
            topics.insert(topic.clone());
        }
    }

    /// Topics that messages went to since the start, or since they were forgotten.
    pub fn topics(&self) -> Vec<String> {
        self.topics.lock().expect("no panic while the lock is held").iter().map(|topic| topic.to_string()).collect()
    }

    pub fn forget_topics(&self) {
        self.topics.lock().expect("no panic while the lock is held").clear();
    }

    pub fn saved(&self) -> Option<Position> {
        self.saved.lock().expect("no panic while the lock is held").clone()
    }

    pub fn set_saved(&self, position: Position) {
        *self.saved.lock().expect("no panic while the lock is held") = Some(position);
    }

    /// `count` messages of a transaction committed at `commit_us` are durable now.
    pub fn record_published(&self, count: u64, commit_us: i64) {
        self.published.fetch_add(count, Relaxed);
        if commit_us == 0 {
            return; // a polled row that tells no time
        }
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        self.latency.record(now_us.saturating_sub(commit_us).max(0) as u64, count);
    }
}

/// The statuses of the pipelines there are now, by name: what metrics and status show. Pipelines come and go.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<RwLock<BTreeMap<String, Arc<Status>>>>);

impl Board {
    /// Replaces one of the same name.
    pub fn insert(&self, status: Arc<Status>) {
        self.0.write().expect("no panic while the lock is held").insert(status.name.clone(), status);
    }

    pub fn remove(&self, name: &str) {
        self.0.write().expect("no panic while the lock is held").remove(name);
    }

    /// All, in the order of their names.
    pub fn all(&self) -> Vec<Arc<Status>> {
        self.0.read().expect("no panic while the lock is held").values().cloned().collect()
    }
}

impl FromIterator<Arc<Status>> for Board {
    fn from_iter<I: IntoIterator<Item = Arc<Status>>>(statuses: I) -> Self {
        let board = Board::default();
        statuses.into_iter().for_each(|status| board.insert(status));
        board
    }
}
