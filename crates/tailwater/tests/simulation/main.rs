//! The real loop, lanes and ledger against a world of faults, in paused time: what must stay true, tried by seeds.
//!
//! `TAILWATER_SEED=n` runs one seed and prints its story; `TAILWATER_SEEDS=n` sets how many are tried.

mod broker;
mod run;
mod source;
mod world;

use run::{End, Plan, Summary};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tailwater::config::{DeliveryConfig, OnRejected, Order};
use world::{Faults, Kind, Record, Setup};

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a seed is a number"))
}

/// T8, T9, T10, T11, T12, T32, T34, T38, T55: whatever is refused, lost, held, cut or dropped, nothing before the saved
/// position is missing, confirmed never passes saved, each key keeps its order, nothing is invented, all arrives in the end.
#[test]
fn a_thousand_seeds_lose_nothing() {
    if let Some(seed) = number_from("TAILWATER_SEED") {
        let plan = Plan::random(seed);
        println!("{plan:#?}");
        match plan.run() {
            Ok(summary) => return println!("seed {seed}: {summary:?}"),
            Err(story) => panic!("{story}"),
        }
    }
    let seeds = number_from("TAILWATER_SEEDS").unwrap_or(1_000);
    let (next, started) = (AtomicU64::new(0), Instant::now());
    let work = || -> Result<Summary, String> {
        let mut total = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return Ok(total);
            }
            let outcome = Plan::random(seed).run();
            total.add(&outcome.inspect_err(|_| next.store(seeds, Ordering::Relaxed))?);
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a seed's panic is caught")).collect()
    });
    let mut total = Summary::default();
    for result in results {
        total.add(&result.unwrap_or_else(|story| panic!("{story}reproduce with TAILWATER_SEED={}", seed_of(&story))));
    }
    println!("simulation: {seeds} seeds in {:.1} s, nothing lost, {total}", started.elapsed().as_secs_f64());
}

/// A story begins with "seed n:".
fn seed_of(story: &str) -> &str {
    story.strip_prefix("seed ").and_then(|rest| rest.split(':').next()).unwrap_or("?")
}

fn event(key: u8) -> Record {
    Record { kind: Kind::Event, key: Some(key), bytes: 100 }
}

fn plan(log: Vec<Record>, faults: Faults, on_rejected: OnRejected) -> Plan {
    let dead_letters = on_rejected == OnRejected::DeadLetter;
    let confirm_interval = Duration::from_millis(20);
    let delivery =
        DeliveryConfig { on_rejected, window: 5, lanes: 2, confirm_interval, order: Order::Key, ..Default::default() };
    let (window, memory_bytes) = (delivery.window, delivery.memory_bytes);
    let setup = Setup { faults, log, dead_letters, strict: false, window, memory_bytes };
    Plan { seed: 7, setup, delivery, ends: vec![], calm_after: Duration::ZERO, pauses: vec![] }
}

#[test]
fn without_faults_everything_arrives_exactly_once() {
    let log: Vec<_> = (0..200).map(|n| event(n as u8 % 7)).collect();
    let summary = plan(log, Faults::default(), OnRejected::Stop).run().unwrap_or_else(|story| panic!("{story}"));
    assert_eq!((summary.published, summary.arrivals, summary.dead), (200, 200, 0));
}

/// A stop that drained leaves nothing to repeat.
#[test]
fn a_drained_stop_repeats_nothing() {
    let log: Vec<_> = (0..200).map(|n| event(n as u8 % 7)).collect();
    for after in (0..400).step_by(20) {
        let mut plan = plan(log.clone(), Faults::default(), OnRejected::Stop);
        plan.ends = vec![End::StopAfter(Duration::from_millis(after))];
        let summary = plan.run().unwrap_or_else(|story| panic!("{story}"));
        assert_eq!((summary.published, summary.arrivals), (200, 200), "stopped after {after} ms");
    }
}

/// T32, T55: by default what nobody takes is never passed: it is held, by name, and the position stays before it.
#[test]
fn by_default_a_refused_event_is_held_and_never_passed() {
    for kind in [Kind::Unroutable, Kind::Poison] {
        let mut log: Vec<_> = (0..20).map(|n| event(n % 3)).collect();
        log[9].kind = kind;
        // the other lane's connection breaks now and then: its recovery must not hide that this one holds
        let faults = Faults { idle_cut: 1.0, ..Faults::default() };
        let mut plan = plan(log, faults, DeliveryConfig::default().on_rejected);
        plan.ends = vec![End::HeldAt { record: 9, after: Duration::from_secs(300) }];
        let summary = plan.run().unwrap_or_else(|story| panic!("{kind:?}: {story}"));
        assert_eq!((summary.published, summary.dead), (20, 0), "and it goes on once it is taken");
    }
}

/// T25, T55: what the router cannot make a message of is held too where no dead letters are configured, a stop does not wait
/// for it, and it goes out once the configuration can read it.
#[test]
fn an_unreadable_event_is_held_until_the_configuration_can_read_it() {
    let mut log: Vec<_> = (0..20).map(|n| event(n % 3)).collect();
    log[9].kind = Kind::Unreadable;
    let mut plan = plan(log, Faults::default(), OnRejected::Stop);
    let held = End::HeldAt { record: 9, after: Duration::from_secs(60) };
    plan.ends = vec![held, End::StopAfter(Duration::from_secs(5))];
    let summary = plan.run().unwrap_or_else(|story| panic!("{story}"));
    assert_eq!((summary.published, summary.dead), (20, 0));
}

/// T10, T11: killed at every single await point that touches the world: before and after each read, store, reply, save
/// and confirm.
#[test]
fn a_crash_at_any_step_loses_nothing() {
    let mut log: Vec<_> = (0..30).map(|n| event(n % 3)).collect();
    log[11].kind = Kind::Filtered;
    log[12].kind = Kind::Foreign;
    let whole = plan(log.clone(), Faults::default(), OnRejected::Stop).run().expect("the undisturbed run succeeds");
    assert!(whole.steps > 30, "the run has steps to crash at: {}", whole.steps);
    for step in 1..=whole.steps {
        let mut plan = plan(log.clone(), Faults::default(), OnRejected::Stop);
        plan.ends = vec![End::CrashAtStep(step)];
        if let Err(story) = plan.run() {
            panic!("crash at step {step}: {story}");
        }
    }
}

/// T38: one that the broker will never take between good ones: dead letter, the others delivered.
#[test]
fn a_poison_message_between_good_ones_goes_to_the_dead_letters() {
    let mut log: Vec<_> = (0..20).map(|_| event(1)).collect();
    log[9].kind = Kind::Poison;
    log[15].kind = Kind::Unreadable;
    let summary = plan(log, Faults::default(), OnRejected::DeadLetter).run().unwrap_or_else(|story| panic!("{story}"));
    assert_eq!((summary.published, summary.dead), (18, 2));
}

/// T34: every connection breaks sooner or later, some messages are refused on each: an index of the old connection never
/// means a message of the new one.
#[test]
fn a_new_connection_knows_nothing_of_the_old_ones_numbers() {
    let faults = Faults { cut: 0.15, lose_reply: 0.15, refuse: 0.15, ..Faults::default() };
    for seed in 0..50 {
        for on_rejected in [OnRejected::Stop, OnRejected::DeadLetter] {
            let mut plan = plan((0..60).map(|n| event(n % 2)).collect(), faults.clone(), on_rejected);
            plan.seed = seed;
            plan.ends = vec![End::StopAfter(Duration::from_secs(60))];
            plan.run().unwrap_or_else(|story| panic!("{story}"));
        }
    }
}
