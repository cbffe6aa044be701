//! The lab: the same seeded load through five patterns, the same faults, on real private servers; then everything is
//! counted from what databases, topics and consumers hold.
//!
//! Five patterns run side by side on one PostgreSQL and one Kafka, so a fault hits all of them at the same moment. Each has
//! a database, a topic, a service (its own process, killed for real), a consumer, and a relay where it needs one: this very
//! program with a configuration file. Not a benchmark: one machine, a small load; latencies show shapes, not limits.

pub mod consumer;
pub mod count;
pub mod faults;
pub mod load;
pub mod page;
pub mod pattern;
pub mod service;
pub mod table;
pub mod world;

use count::Count;
use faults::{Fault, Happened, Planned};
use load::{Load, Meter};
use pattern::Pattern;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use service::Order;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testbed::{Kafka, Postgres};
use tokio::io::AsyncWriteExt;
use world::{Feed, World};

/// What a run is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub seed: u64,
    pub patterns: Vec<Pattern>,
    /// Orders, over the time of the load.
    pub orders: usize,
    pub load: Duration,
    /// How long the broker is away.
    pub away: Duration,
    pub faults: Vec<Fault>,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub plan: Plan,
    /// Orders that were asked for: more than planned if a slow machine made the faults last longer.
    pub asked: usize,
    pub counts: Vec<Count>,
    pub faults: Vec<Happened>,
    /// Orders that were at a weak point when their service was killed.
    pub points: Vec<world::Point>,
    /// µs since 1970.
    pub began_us: i64,
    pub versions: Vec<(String, String)>,
}

impl Report {
    /// Ours lost nothing, invented nothing, and had no effect twice.
    pub fn promises_hold(&self) -> bool {
        let ours = self.counts.iter().filter(|count| count.pattern.is_ours());
        ours.clone().all(|c| c.lost + c.phantom + c.duplicates_after + c.without_effect + c.not_applied == 0)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("PostgreSQL: {0}")]
    Database(#[from] tokio_postgres::Error),
    #[error("make the inbox: {0}")]
    Inbox(#[from] tailwater_client::DatabaseError),
    #[error("{0}")]
    Missing(&'static str),
    #[error("{0}")]
    Stuck(String),
    #[error("draw the page: {0}")]
    Draw(String),
}

pub(crate) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as i64)
}

/// Runs the plan. `say` gets a line for people now and then.
pub async fn run(plan: Plan, say: impl Fn(&str)) -> Result<Report, LabError> {
    Postgres::installed().and_then(|()| Kafka::installed()).map_err(LabError::Missing)?;
    say("starting a private PostgreSQL and a private Kafka");
    let mut world = World::set(&plan.patterns).await?;
    let versions = versions(&world).await?;
    let planned = faults::plan(plan.seed, plan.load, plan.away, &plan.faults);
    let meter = Meter::begin(&world).await?;
    say(&format!("{} orders through {} patterns at once, {} faults", plan.orders, plan.patterns.len(), planned.len()));
    let began_us = now_us();
    let asked = Arc::new(AtomicUsize::new(0));
    let feeds = world.sides.iter().map(world::Side::feed).collect();
    let faults_over = Arc::new(AtomicBool::new(false));
    let driver = tokio::spawn(drive(feeds, plan.clone(), asked.clone(), faults_over.clone()));
    let say_asked = |text: &str| say(&format!("{text} ({} orders so far)", asked.load(Relaxed)));
    let faults = strike_all(&mut world, &planned, &plan, &say_asked).await?;
    faults_over.store(true, Relaxed);
    driver.await.map_err(|error| LabError::Stuck(format!("the load driver: {error}")))?;
    let totals = meter.end(&world).await?;
    say("the load is over; waiting until everything has come to rest");
    rest(&world, &plan).await?;
    say("counting what databases, topics and consumers hold");
    let mut counts = Vec::new();
    for pattern in &plan.patterns {
        let mut count = count::count(&world, *pattern).await?;
        count.load = Load::per(totals.get(pattern).copied().unwrap_or_default(), count.committed);
        counts.push(count);
    }
    let asked = asked.load(Relaxed);
    Ok(Report { plan, asked, counts, faults, points: world.points, began_us, versions })
}

/// Sends each order to all patterns, evenly over the time, and goes on while faults are at work still. A service that is dead
/// does not get it: nobody waits for it.
async fn drive(feeds: Vec<Feed>, plan: Plan, asked: Arc<AtomicUsize>, faults_over: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let pause = plan.load / u32::try_from(plan.orders.max(1)).unwrap_or(u32::MAX);
    let start = Instant::now();
    for number in 0.. {
        if number >= plan.orders && faults_over.load(Relaxed) {
            break;
        }
        let due = pause * u32::try_from(number).unwrap_or(u32::MAX);
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
        let line = Order::next(&mut random).line();
        for feed in &feeds {
            // a closed pipe is a dead service
            let _ = feed.lock().await.write_all(line.as_bytes()).await;
        }
        asked.store(number + 1, Relaxed);
    }
}

async fn strike_all(
    world: &mut World,
    planned: &[Planned],
    plan: &Plan,
    say: &impl Fn(&str),
) -> Result<Vec<Happened>, LabError> {
    // orders of its own that walk into a death, the same for all patterns
    let mut random = StdRng::seed_from_u64(plan.seed.wrapping_add(1));
    let start = Instant::now();
    let mut happened = Vec::new();
    for planned in planned {
        tokio::time::sleep(Duration::from_millis(planned.at_ms).saturating_sub(start.elapsed())).await;
        say(planned.fault.title());
        let from_us = now_us();
        faults::strike(world, planned.fault, plan.away, &mut random).await?;
        happened.push(Happened { fault: planned.fault, from_us, to_us: now_us() });
        if let Some(ended) = world.sides.iter().find_map(world::Side::ended) {
            return Err(LabError::Stuck(ended));
        }
    }
    Ok(happened)
}

/// Until nothing moves any more. What ours still owe after the limit is counted as it is: an honest failure.
async fn rest(world: &World, plan: &Plan) -> Result<(), LabError> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        let mut settled = true;
        for pattern in &plan.patterns {
            settled = settled && count::settled(world, *pattern).await?;
        }
        if settled {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tracing::warn!("not at rest after 60 s; the processes said:\n{}", world.last_words());
    Ok(())
}

async fn versions(world: &World) -> Result<Vec<(String, String)>, LabError> {
    let db = world.pg.client("postgres").await;
    let postgres: String = db.query_one("SHOW server_version", &[]).await?.get(0);
    Ok(vec![
        ("Tailwater".into(), env!("CARGO_PKG_VERSION").into()),
        ("PostgreSQL".into(), postgres),
        ("Kafka".into(), testbed::KAFKA_VERSION.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One broken promise is enough, in each of ours; the others promise nothing.
    #[test]
    fn the_promises_hold_only_if_nothing_at_all_is_missing_or_too_much() {
        let plan = || Plan {
            seed: 1,
            patterns: Pattern::ALL.to_vec(),
            orders: 1,
            load: Duration::ZERO,
            away: Duration::ZERO,
            faults: vec![],
        };
        let report = |wrong: Option<(Pattern, usize)>| {
            let of = |pattern: Pattern, field: usize| usize::from(wrong == Some((pattern, field)));
            let counts = Pattern::ALL.map(|pattern| Count {
                pattern,
                committed: 1,
                published: 1,
                lost: of(pattern, 0),
                phantom: of(pattern, 1),
                duplicates_after: of(pattern, 2),
                without_effect: of(pattern, 3),
                not_applied: of(pattern, 4),
                duplicates_before: 1,
                latency: count::Latency::default(),
                load: Load::default(),
                facts: count::Facts::default(),
            });
            let (faults, points, versions) = (vec![], vec![], vec![]);
            Report { plan: plan(), asked: 1, counts: counts.into(), faults, points, began_us: 0, versions }
        };
        assert!(report(None).promises_hold());
        for (pattern, field) in Pattern::ALL.into_iter().flat_map(|pattern| (0..5).map(move |field| (pattern, field))) {
            let holds = report(Some((pattern, field))).promises_hold();
            assert_eq!(holds, !pattern.is_ours(), "{pattern:?}, number {field}");
        }
    }
}
