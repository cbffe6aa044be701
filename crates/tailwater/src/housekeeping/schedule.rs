//! Pruning on a schedule, beside a running pipeline. An error here is said and tried again at the next turn; it never stops
//! the relay.

use super::horizon::{self, Horizon, Reached};
use super::prune::{self, PruneError, Pruned, Rules};
use crate::config::{Config, PipelineConfig};
use crate::metrics::{State, Status};
use crate::sources::postgres::config::Connection;
use crate::sources::postgres::connect;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// How long one turn waits for the horizon; what was taken is kept for the next turn.
const WAIT: Duration = Duration::from_secs(30);

/// A pipeline's pruning, ready to run.
#[derive(Debug)]
pub struct Schedule {
    config: Config,
    pipeline: PipelineConfig,
    admin: Connection,
    every: Duration,
    status: Arc<Status>,
}

impl Schedule {
    /// `None` where nothing is to be pruned: no `[…prune]`, or no `[…admin]` to do it with (which is said).
    pub fn of(config: &Config, pipeline: &PipelineConfig, status: Arc<Status>) -> Option<Schedule> {
        let prune = pipeline.prune.as_ref()?;
        let Some(admin) = pipeline.admin.clone() else {
            tracing::warn!(pipeline = %status.name, "prune is configured, but no admin connection: nothing is pruned");
            return None;
        };
        let every = prune.every.max(Duration::from_secs(1));
        Some(Schedule { config: config.clone(), pipeline: pipeline.clone(), admin, every, status })
    }

    /// Runs until `stop`. A batch that is under way when it comes is simply rolled back.
    pub async fn run(self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.turns()).await;
    }

    async fn turns(&self) {
        let mut pending = None;
        let mut said = String::new();
        loop {
            tokio::time::sleep(self.every).await;
            if !may_prune(&self.status.state()) {
                pending = None; // another server may answer afterwards
                continue;
            }
            match self.turn(&mut pending).await {
                Ok(pruned) => {
                    said.clear();
                    if pruned.rows > 0 {
                        tracing::info!(pipeline = %self.status.name, rows = pruned.rows, batches = pruned.batches, "pruned");
                    }
                }
                // the same trouble at every turn is said once
                Err(error) if error == said => {}
                Err(error) => {
                    tracing::warn!(pipeline = %self.status.name, error, "nothing pruned, trying again");
                    said = error;
                }
            }
        }
    }

    async fn turn(&self, pending: &mut Option<Horizon>) -> Result<Pruned, String> {
        let client = connect::sql(&self.admin).await.map_err(|error| error.to_string())?;
        let table = prune::table_of(&client, &self.pipeline).await?;
        let rules = Rules::of(&self.config, &self.pipeline, table);
        let outcome = self.prune(&client, &rules, pending).await;
        outcome.or_else(|error| match error {
            // the relay is busy: a later turn finds the same horizon passed
            PruneError::NotReached { .. } => Ok(Pruned::default()),
            error => {
                *pending = None;
                Err(format!("{error}; what to do: {}", error.hint(&rules)))
            }
        })
    }

    async fn prune(&self, client: &Client, rules: &Rules, pending: &mut Option<Horizon>) -> Result<Pruned, PruneError> {
        let table = prune::find(client, rules).await?;
        let horizon = match *pending {
            Some(horizon) => horizon,
            None => {
                horizon::nudge(client).await?;
                let horizon = horizon::take(client).await?;
                *pending = Some(horizon);
                horizon
            }
        };
        let limit = WAIT.min(self.every);
        prune::settled(horizon::wait(client, &rules.slots, &horizon, limit, true, |_| {}).await?)?;
        // The slot's position could be moved by a stranger; what this process has confirmed cannot.
        let ours = self.status.confirmed_lsn.load(Relaxed);
        let behind_bytes = u64::from(horizon.wal).saturating_sub(ours);
        if behind_bytes > 0 {
            let slot = rules.slots.first().cloned().unwrap_or_default();
            return prune::settled(Reached::NotYet { slot, behind_bytes, active: true }).map(|()| Pruned::default());
        }
        let pruned = prune::delete(client, rules, &table, &horizon, |_| {}).await?;
        *pending = None;
        Ok(pruned)
    }
}

/// Only the one that delivers prunes, and never where events may be missing.
fn may_prune(state: &State) -> bool {
    matches!(state, State::Streaming | State::Held { .. } | State::Retrying { .. })
}
