//! PostgreSQL by its log: a slot decoded by `pgoutput`, read over the replication protocol.
//!
//! ```text
//!   config ─▶ target ─▶ socket ─▶ client (start-up, queries) ─▶ open (checks) ─┬───────────────▶ stream ─▶ changes
//!             filter ─▶ capture, publication (which tables) ──────┘            ├▶ snapshot ────┘ (first start)
//!                                                                              └▶ standby (somebody else has the slot)
//!   connect, shared (ordinary SQL) ─▶ watch (publication, slot, shutdown), catalog      feedback ◀─ confirmations
//! ```

mod capture;
mod catalog;
pub mod client;
pub mod config;
pub mod connect;
pub(crate) mod copy;
pub mod failure;
mod feedback;
pub mod filter;
mod marks;
mod open;
pub mod position;
mod publication;
mod shared;
pub mod slot;
mod snapshot;
mod socket;
mod standby;
mod stream;
pub mod target;
mod watch;

use crate::metrics::Status;
use async_trait::async_trait;
use config::PostgresConfig;
use failure::Error;
use futures_util::future::BoxFuture;
use open::{Begin, Opening};
use snapshot::{After, Rows};
use std::sync::Arc;
use stream::Stream;
use tailwater_core::{Batch, Confirm, Failure, OpenSource, Position, Relation, Source};

/// Whether rows of a table can be published; the reason if not.
pub type TableCheck = Arc<dyn Fn(&Arc<Relation>) -> Result<(), String> + Send + Sync>;

/// A slot of a PostgreSQL server, to be opened as often as needed.
pub struct PostgresSource {
    config: PostgresConfig,
    status: Arc<Status>,
    check: Option<TableCheck>,
}

impl PostgresSource {
    /// Connects to nothing yet. Reports on `status` what it waits for.
    pub fn new(config: PostgresConfig, status: Arc<Status>) -> Self {
        PostgresSource { config, status, check: None }
    }

    /// Asks this of every captured table when the source is opened: a no refuses to start.
    #[must_use]
    pub fn checking(self, check: TableCheck) -> Self {
        PostgresSource { check: Some(check), ..self }
    }
}

#[async_trait]
impl OpenSource for PostgresSource {
    async fn open(&self, from: Option<Position>) -> Result<(Box<dyn Source>, Arc<dyn Confirm>), Failure> {
        // Switched from polling to the log: rows that are still in the table are the snapshot's, or the slot has them.
        let from = from.filter(|position| !position.as_str().starts_with("poll "));
        let (begin, confirm, opening) =
            open::open(&self.config, from, self.check.as_ref(), self.status.clone()).await?;
        let phase = match begin {
            Begin::Stream(stream) => Phase::Stream(stream),
            Begin::Snapshot(rows) => Phase::Rows(rows),
        };
        Ok((Box::new(Reader { phase, opening }), confirm))
    }
}

/// Where a source is. A step that must not be torn is a future of its own, kept here: a dropped `next` loses nothing (S1).
enum Phase {
    Rows(Box<Rows>),
    Stream(Box<Stream>),
    Step(BoxFuture<'static, Result<Phase, Error>>),
    Dead,
}

struct Reader {
    phase: Phase,
    opening: Opening,
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, room: usize) -> Result<Batch, Failure> {
        let result = self.advance(room).await;
        result.map_err(|error| {
            // S5: dead; the server must not wait for us.
            self.phase = Phase::Dead;
            self.opening.link.close_now();
            self.opening.link.status.source_seen.clear();
            open::conclude(error, &self.opening.names, &self.opening.link.status)
        })
    }
}

impl Reader {
    async fn advance(&mut self, room: usize) -> Result<Batch, Error> {
        loop {
            match &mut self.phase {
                Phase::Stream(stream) => {
                    if let Some(batch) = stream.next(room).await? {
                        return Ok(batch);
                    }
                }
                Phase::Rows(rows) => {
                    if let Some(batch) = rows.next(room).await? {
                        return Ok(batch);
                    }
                }
                Phase::Step(step) => {
                    let phase = step.await?;
                    self.phase = phase;
                    continue;
                }
                Phase::Dead => return Err(Error::Ended("the source has failed before")),
            }
            // What was read last wants something done before it can go on.
            let target = self.opening.target.clone();
            self.phase = match std::mem::replace(&mut self.phase, Phase::Dead) {
                Phase::Rows(rows) => Phase::Step(Box::pin(async move {
                    Ok(match rows.proceed().await? {
                        After::Rows(rows) => Phase::Rows(rows),
                        After::Stream(stream) => Phase::Stream(stream),
                    })
                })),
                Phase::Stream(mut stream) => Phase::Step(Box::pin(async move {
                    if let Some(relation) = stream.described.take() {
                        stream.describe(catalog::complete(&target, relation).await?);
                    }
                    Ok(Phase::Stream(stream))
                })),
                other => other,
            };
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.opening.link.close_softly();
    }
}
