//! One seed: a log, a set of faults, several processes of which all but the last are ended in some way; then calm.

use super::broker::FakeSink;
use super::source::{FakeCheckpoints, FakeDatabase, FakeRoute};
use super::world::{Faults, Kind, Record, Setup, World};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tailwater::config::{DeliveryConfig, OnRejected, Order};
use tailwater::memory::{Memory, Share};
use tailwater::metrics::{State, Status};
use tailwater::pipeline::{Parts, Pause, Pipeline};
use tailwater_core::Failure;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How a process ends before the calm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// Dropped at this step, at an await point.
    CrashAtStep(u64),
    /// Dropped after this time.
    CrashAfter(Duration),
    /// Told to stop, leaves by itself.
    StopAfter(Duration),
    /// By then it must hold at this record; then it is dropped.
    HeldAt { record: usize, after: Duration },
}

/// Everything one run depends on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub setup: Setup,
    pub delivery: DeliveryConfig,
    pub ends: Vec<End>,
    /// The last process sees faults for so long; then there is calm, and all must arrive.
    pub calm_after: Duration,
    /// In each process: so long running, then so long paused, one after the other.
    pub pauses: Vec<(Duration, Duration)>,
}

/// What a run amounted to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub published: usize,
    pub arrivals: usize,
    pub dead: usize,
    pub steps: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Summary) {
        self.published += other.published;
        self.arrivals += other.arrivals;
        self.dead += other.dead;
        self.steps += other.steps;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let twice = self.arrivals - self.published;
        write!(f, "{} delivered, {twice} duplicates, {} dead letters", self.published, self.dead)
    }
}

impl Plan {
    pub fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let dead_letters = rng.random_bool(0.5);
        let strict = rng.random_bool(0.25);
        let lanes = rng.random_range(1..=4);
        let delivery = DeliveryConfig {
            lanes,
            window: rng.random_range(1..=20),
            memory_bytes: rng.random_range(2_000..30_000),
            order: if strict { Order::Strict } else { Order::Key },
            on_rejected: if dead_letters { OnRejected::DeadLetter } else { OnRejected::Stop },
            confirm_interval: Duration::from_millis(rng.random_range(1..300)),
            drain_timeout: Duration::from_millis(rng.random_range(100..10_000)),
        };
        let faults = Faults::random(&mut rng);
        let log = random_log(&mut rng, dead_letters);
        let ends = (0..rng.random_range(0..4)).map(|_| random_end(&mut rng)).collect();
        let window = if strict { 1 } else { delivery.window };
        let setup = Setup { faults, log, dead_letters, strict, window, memory_bytes: delivery.memory_bytes };
        let calm_after = Duration::from_millis(if rng.random_bool(0.3) { 0 } else { rng.random_range(0..3_000) });
        let most = if rng.random_bool(0.5) { 1 } else { 4 };
        let pauses = (0..rng.random_range(0..most))
            .map(|_| {
                let mut ms = |most| Duration::from_millis(rng.random_range(0..most));
                (ms(600), ms(900))
            })
            .collect();
        Plan { seed, setup, delivery, ends, calm_after, pauses }
    }

    /// Runs to the end; a violated oracle or a panic comes back with the last lines of the story.
    pub fn run(&self) -> Result<Summary, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O is always possible");
        let _inside = runtime.enter();
        let world = World::new(self.seed, self.setup.clone());
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.play(&world))));
        let mut state = world.lock();
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            state.violate(format!("panic: {}", text.unwrap_or_default()));
        }
        if let Some(violation) = state.violation.clone() {
            let lines = if std::env::var_os("TAILWATER_SEED").is_some() { usize::MAX } else { 60 };
            return Err(format!("seed {}: {violation}\n{}", self.seed, state.story(lines)));
        }
        let dead = state.dead.iter().filter(|dead| **dead).count();
        let published = state.delivered.iter().filter(|delivered| **delivered).count();
        Ok(Summary { published, arrivals: state.arrivals.len(), dead, steps: state.steps })
    }

    async fn play(&self, world: &Arc<World>) {
        for end in &self.ends {
            self.process(world, Some(*end)).await;
            // the lanes of a dropped pipeline end when the runtime comes round to them
            tokio::task::yield_now().await;
            if world.lock().violation.is_some() {
                return;
            }
        }
        world.lock().calm = self.calm_after.is_zero();
        self.process(world, None).await;
        if world.lock().fatal_injected {
            world.lock().calm = true;
            self.process(world, None).await;
        }
        let mut state = world.lock();
        if state.violation.is_none() {
            state.check_end();
        }
    }

    async fn process(&self, world: &Arc<World>, end: Option<End>) {
        world.start(match end {
            Some(End::CrashAtStep(step)) => Some(step),
            _ => None,
        });
        let stop = CancellationToken::new();
        let status = Arc::new(Status::new("simulation"));
        let order = watch::Sender::new(false);
        let pipeline = Pipeline::new(self.parts(world, status.clone(), Pause::by(&order)));
        let pauses = async {
            // what must be held by a certain time is not delayed on top
            let pauses = self.pauses.iter().filter(|_| !matches!(end, Some(End::HeldAt { .. })));
            for (running, paused) in pauses {
                sleep(*running).await;
                order.send_replace(true);
                sleep(*paused).await;
                order.send_replace(false);
            }
            std::future::pending().await
        };
        let mut running = Box::pin(pipeline.run(stop.clone()));
        let life = async {
            match end {
                Some(End::CrashAtStep(_)) => timeout(Duration::from_secs(120), world.crash.notified()).await.is_err(),
                Some(End::CrashAfter(after)) => {
                    sleep(after).await;
                    false
                }
                Some(End::HeldAt { record, after }) => {
                    sleep(after).await;
                    for _ in 0..500 {
                        sleep(Duration::from_millis(37)).await;
                        if !matches!(status.state(), State::Held { .. }) {
                            world.lock().violate(format!("a lane holds, and the state is {:?}", status.state()));
                        }
                    }
                    let mut world = world.lock();
                    let held = matches!(status.state(), State::Held { event, .. } if event == format!("e{record}"));
                    if !held || world.saved.is_some_and(|saved| saved > record) {
                        let saved = world.saved;
                        world.violate(format!("does not hold at {record}: {:?}, saved {saved:?}", status.state()));
                    }
                    false
                }
                Some(End::StopAfter(after)) => {
                    sleep(after).await;
                    true
                }
                None => {
                    sleep(self.calm_after).await;
                    world.lock().calm = true;
                    world.lock().note("calm".into());
                    if timeout(Duration::from_secs(3_600), world.finished()).await.is_err() {
                        world
                            .lock()
                            .violate(format!("not all delivered after an hour of calm, state {:?}", status.state()));
                    }
                    world.lock().violation.is_none()
                }
            }
        };
        let leaves = tokio::select! {
            biased;
            outcome = &mut running => return self.ended(world, outcome, false),
            leaves = life => leaves,
            leaves = pauses => leaves,
        };
        if !leaves {
            return;
        }
        stop.cancel();
        // the deadline of draining, a slow save and the goodbye
        match timeout(self.delivery.drain_timeout + Duration::from_secs(10), running).await {
            Ok(outcome) => self.ended(world, outcome, true),
            Err(_) => world.lock().violate("does not leave in time".into()),
        }
        let in_flight = status.in_flight_bytes.load(Relaxed);
        if end.is_none() && (in_flight > 0 || status.state() != State::Stopped) {
            world.lock().violate(format!("leaves with {in_flight} bytes in flight, state {:?}", status.state()));
        }
    }

    fn parts(&self, world: &Arc<World>, status: Arc<Status>, pause: Pause) -> Parts {
        // one in two has a memory that others might share: small grants
        let memory = match self.seed % 2 {
            0 => Share::alone(),
            _ => Memory::new(2 * self.delivery.memory_bytes).join().expect("an only party"),
        };
        let generation = world.lock().generation;
        let sink = |dead_letters| Arc::new(FakeSink { world: world.clone(), generation, dead_letters });
        Parts {
            source: Arc::new(FakeDatabase { world: world.clone(), generation }),
            route: Box::new(FakeRoute(world.clone())),
            sink: sink(false),
            dead_letters: self.setup.dead_letters.then(|| sink(true) as _),
            checkpoints: Arc::new(FakeCheckpoints { world: world.clone(), generation }),
            delivery: self.delivery.clone(),
            status,
            memory,
            pause,
        }
    }

    fn ended(&self, world: &World, outcome: Result<(), Failure>, asked: bool) {
        let mut state = world.lock();
        match outcome {
            Ok(()) if asked => state.note("left".into()),
            Ok(()) => state.violate("leaves without being asked".into()),
            Err(failure) if failure.is_fatal() && state.fatal_injected => state.note(format!("ended: {failure}")),
            Err(failure) => state.violate(format!("ends with {failure}, which no fault explains")),
        }
    }
}

fn random_log(rng: &mut StdRng, dead_letters: bool) -> Vec<Record> {
    let awkward = if rng.random_bool(0.5) { 0.0 } else { rng.random_range(0.0..0.15) };
    (0..rng.random_range(1..100)).map(|_| random_record(rng, awkward, dead_letters)).collect()
}

fn random_record(rng: &mut StdRng, awkward: f64, dead_letters: bool) -> Record {
    let kind = match rng.random_range(0..10) {
        0 => Kind::Filtered,
        1 => Kind::Foreign,
        _ if !rng.random_bool(awkward) => Kind::Event,
        _ => match rng.random_range(0..3) {
            0 => Kind::Unroutable,
            1 => Kind::Poison,
            _ if dead_letters => Kind::Unreadable,
            _ => Kind::Unroutable,
        },
    };
    let key = rng.random_bool(0.8).then(|| rng.random_range(0..5));
    let bytes = if rng.random_bool(0.03) { 40_000 } else { rng.random_range(10..400) };
    Record { kind, key, bytes }
}

fn random_end(rng: &mut StdRng) -> End {
    match rng.random_range(0..4) {
        0 | 1 => End::CrashAtStep(rng.random_range(1..150)),
        2 => End::CrashAfter(Duration::from_millis(rng.random_range(0..2_000))),
        _ => End::StopAfter(Duration::from_millis(rng.random_range(0..3_000))),
    }
}
