//! When what breaks: seeded, the same moments for all patterns.

use super::LabError;
use super::service::Order;
use super::world::{Role, World};
use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::time::Duration;
use testbed::StopMode;

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    ServiceKilled,
    ConsumerKilled,
    RelayKilled,
    BrokerAway,
    DatabaseRestarted,
    NetworkCut,
}

impl Fault {
    pub const ALL: [Fault; 6] = [
        Fault::ServiceKilled,
        Fault::ConsumerKilled,
        Fault::RelayKilled,
        Fault::BrokerAway,
        Fault::DatabaseRestarted,
        Fault::NetworkCut,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Fault::ServiceKilled => "service killed between its writes",
            Fault::ConsumerKilled => "consumer killed",
            Fault::RelayKilled => "relay killed",
            Fault::BrokerAway => "broker away",
            Fault::DatabaseRestarted => "database restarted",
            Fault::NetworkCut => "network cut",
        }
    }
}

/// One fault at its moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub fault: Fault,
    /// ms since the load began.
    pub at_ms: u64,
}

/// A fault that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Happened {
    pub fault: Fault,
    /// µs since 1970.
    pub from_us: i64,
    pub to_us: i64,
}

/// Each of `wanted` once, the service's death twice, in an order and with gaps that the seed decides.
pub fn plan(seed: u64, load: Duration, away: Duration, wanted: &[Fault]) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = wanted.to_vec();
    faults.extend(wanted.iter().filter(|fault| **fault == Fault::ServiceKilled).take(1));
    for last in (1..faults.len()).rev() {
        faults.swap(last, random.random_range(0..=last));
    }
    let free = load.saturating_sub(away).as_millis() as u64;
    let slot = free / (faults.len() as u64 + 1);
    let mut waited = 0;
    let mut planned = Vec::new();
    for (index, fault) in faults.into_iter().enumerate() {
        let jitter = random.random_range(0..=slot / 4);
        planned.push(Planned { fault, at_ms: slot * (index as u64 + 1) / 10 * 9 + jitter + waited });
        if fault == Fault::BrokerAway {
            waited = away.as_millis() as u64;
        }
    }
    planned
}

/// Lets it happen, and waits until the cause is gone again.
pub async fn strike(world: &mut World, fault: Fault, away: Duration, random: &mut StdRng) -> Result<(), LabError> {
    match fault {
        Fault::ServiceKilled => {
            let order = Order::next(random);
            let mut sides = std::mem::take(&mut world.sides);
            let killed = try_join_all(sides.iter_mut().map(|side| world.kill_service(side, &order))).await?;
            world.points.extend(killed);
            world.sides = sides;
        }
        Fault::ConsumerKilled => restart(world, &[Role::Consumer, Role::Listener]).await?,
        Fault::RelayKilled => restart(world, &[Role::Relay]).await?,
        Fault::BrokerAway => {
            // it is killed for real; nobody reaches it before its time, however quickly it is back
            world.broker_proxy.refuse();
            world.kafka.kill9();
            tokio::join!(world.kafka.start_again(), tokio::time::sleep(away));
            world.broker_proxy.restore();
        }
        Fault::DatabaseRestarted => {
            world.pg.stop(StopMode::Fast).await; // an immediate one would lose the statistics that are counted
            world.pg.start_again().await;
        }
        Fault::NetworkCut => {
            for proxy in [&world.database_proxy, &world.broker_proxy] {
                proxy.refuse(); // and resets what is open
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.database_proxy.restore();
            world.broker_proxy.restore();
        }
    }
    Ok(())
}

async fn restart(world: &mut World, roles: &[Role]) -> Result<(), LabError> {
    let mut sides = std::mem::take(&mut world.sides);
    let mut killed = Vec::new();
    for (index, side) in sides.iter_mut().enumerate() {
        killed.extend(roles.iter().filter(|role| side.kill(**role)).map(|role| (index, *role)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (index, role) in killed {
        world.start(&mut sides[index], role)?;
    }
    world.sides = sides;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_every_fault_happens_within_the_load() {
        let load = Duration::from_secs(60);
        let away = Duration::from_secs(10);
        for seed in 0..50 {
            let planned = plan(seed, load, away, &Fault::ALL);
            assert_eq!(planned, plan(seed, load, away, &Fault::ALL));
            assert!(planned.is_sorted_by_key(|planned| planned.at_ms), "{planned:?}");
            assert!(planned.iter().all(|planned| planned.at_ms < 60_000), "{planned:?}");
            for fault in [Fault::BrokerAway, Fault::RelayKilled, Fault::NetworkCut, Fault::DatabaseRestarted] {
                assert_eq!(planned.iter().filter(|planned| planned.fault == fault).count(), 1);
            }
        }
        assert_ne!(plan(1, load, away, &Fault::ALL), plan(2, load, away, &Fault::ALL));
    }
}
