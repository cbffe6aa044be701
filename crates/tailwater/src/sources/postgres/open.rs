//! From a configuration and a saved position to a running stream: the checks, the standby, the gap decisions.
//!
//! ```text
//!   connect ─▶ IDENTIFY_SYSTEM ─▶ publication, table ─▶ slot ─┬─ none, nothing saved ─▶ snapshot (or create) ─┐
//!                                                             ├─ none, but saved ─▶ gap possible              │
//!                                                             ├─ lost, foreign ─▶ gap possible                ▼
//!                                                             ├─ in use ─▶ standby, ask again           START_REPLICATION
//!                                                             └─ ours ───────────────────────────────────────▲
//! ```

use super::client::{Client, Incoming, server_error};
use super::config::{PostgresConfig, Snapshot};
use super::failure::{Error, Names, classify, gap_hint};
use super::feedback::{self, Confirmer, Link};
use super::position::{Inside, PgPosition, Place};
use super::slot::{self, Slot, System};
use super::stream::{Origin, Stream, status_interval};
use super::target::Target;
use super::{snapshot, watch};
use crate::metrics::{State, Status};
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::backend::Message;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tailwater_core::{Confirm, Failure, Position};
use tokio::time::sleep;

const STANDBY_FIRST: Duration = Duration::from_millis(50);
const STANDBY_MAX: Duration = Duration::from_secs(1);

/// What an opening has learned; everything the later steps need.
#[derive(Clone)]
pub(super) struct Opening {
    pub config: PostgresConfig,
    pub target: Target,
    pub names: Names,
    pub system: System,
    pub link: Arc<Link>,
}

/// What is read first.
pub(super) enum Begin {
    Stream(Box<Stream>),
    Snapshot(Box<snapshot::Rows>),
}

/// Names for the hints.
pub(super) fn names(config: &PostgresConfig, target: &Target) -> Names {
    let (schema, table) = slot::split_table(&config.table);
    Names {
        user: target.user.clone(),
        dbname: target.dbname.clone(),
        table: if config.table.is_empty() { String::new() } else { format!("{schema}.{table}") },
        slot: config.slot.clone(),
        publication: config.publication.clone(),
    }
}

/// Opens the source. A gap is also entered as a state.
pub(super) async fn open(
    config: &PostgresConfig,
    from: Option<Position>,
    status: Arc<Status>,
) -> Result<(Begin, Arc<dyn Confirm>, Opening), Failure> {
    let target = Target::resolve(&config.connection).map_err(|error| classify(error, &Names::default()))?;
    let names = names(config, &target);
    let opened = open_inner(config, from, target, &names, status.clone()).await;
    opened.map_err(|error| conclude(error, &names, &status))
}

/// Error → failure; a possible gap becomes the pipeline's state.
pub(super) fn conclude(error: Error, names: &Names, status: &Status) -> Failure {
    let failure = classify(error, names);
    if let Failure::Fatal { hint, source } = &failure
        && source.downcast_ref::<Error>().is_some_and(Error::is_gap)
    {
        status.set_state(State::GapPossible { error: source.to_string(), hint: hint.to_string() });
    }
    failure
}

async fn open_inner(
    config: &PostgresConfig,
    from: Option<Position>,
    target: Target,
    names: &Names,
    status: Arc<Status>,
) -> Result<(Begin, Arc<dyn Confirm>, Opening), Error> {
    let saved = from.as_ref().map(PgPosition::parse).transpose()?;
    let mut client = Client::connect(&target).await?;
    let system = slot::identify(&mut client).await?;
    status.source_seen.touch();
    if let Some(saved) = &saved {
        check_system(&mut client, saved, &system, names).await?;
    }
    let link = Link::new(status.clone());
    // The SQL session beside the stream must ask the very server that streams.
    let target = Target { endpoints: vec![client.endpoint.clone()], ..target };
    let opening = Opening { config: config.clone(), target, names: names.clone(), system, link: link.clone() };
    let confirm = Arc::new(Confirmer { link, system_id: opening.system.id });
    let found = slot::find(&mut client, &config.slot).await?;
    slot::check_published(&mut client, config, names, found.is_some() || saved.is_some()).await?;
    let begin = match (found, &saved) {
        (None, Some(PgPosition { place: Place::Stream { .. }, .. })) => {
            return Err(Error::Gap {
                what: format!(
                    "slot `{}` does not exist any more, but a position is saved (`{}`)",
                    config.slot,
                    from.as_ref().map_or("", Position::as_str)
                ),
                hint: gap_hint(names),
            });
        }
        (None, _) if config.snapshot == Snapshot::Initial => {
            Begin::Snapshot(Box::new(snapshot::begin(client, opening.clone()).await?))
        }
        (None, _) => {
            let consistent = snapshot::create_slot(&mut client, &opening, false).await?;
            tracing::info!(slot = %config.slot, at = %Lsn(consistent), "slot created, without a snapshot");
            Begin::Stream(Box::new(start(client, &opening, None, Some(consistent)).await?))
        }
        (Some(_), saved) => Begin::Stream(Box::new(start(client, &opening, saved.clone(), None).await?)),
    };
    Ok((begin, confirm, opening))
}

/// Whether the saved position is of this cluster, and of this past of it.
async fn check_system(client: &mut Client, saved: &PgPosition, system: &System, names: &Names) -> Result<(), Error> {
    let gap = |what: String| Err(Error::Gap { what, hint: gap_hint(names) });
    if saved.system_id != system.id {
        return gap(format!(
            "the saved position is of the cluster with system identifier {}, the server is {}: another cluster, or one \
             restored elsewhere",
            saved.system_id, system.id
        ));
    }
    let Place::Stream { lsn, inside } = saved.place else { return Ok(()) };
    let reached = inside.map_or(lsn, |inside| inside.commit);
    if reached > system.end {
        return gap(format!(
            "events up to {} were published, but the server's WAL ends at {}: it was set back, or another one promoted",
            Lsn(reached),
            Lsn(system.end)
        ));
    }
    if saved.timeline != system.timeline {
        let point = slot::switch_point(client, system.timeline, saved.timeline).await?;
        tracing::info!(saved = saved.timeline, server = system.timeline, "the server is on another timeline");
        match point {
            Some(point) if reached <= point => {}
            Some(point) => {
                return gap(format!(
                    "events up to {} were published, but the server left timeline {} at {}: transactions behind that point \
                     do not exist there",
                    Lsn(reached),
                    saved.timeline,
                    Lsn(point)
                ));
            }
            None => return gap(format!("timeline {} is not in the server's history", saved.timeline)),
        }
    }
    Ok(())
}

/// Starts the stream of an existing slot; stands by while somebody else has it. `created`: where our own new slot begins.
pub(super) async fn start(
    mut client: Client,
    opening: &Opening,
    saved: Option<PgPosition>,
    created: Option<u64>,
) -> Result<Stream, Error> {
    let Opening { config, names, link, .. } = opening;
    let wal_sender_timeout = slot::wal_sender_timeout(&mut client).await?;
    let mut pause = STANDBY_FIRST;
    let (system, place, skip) = loop {
        // Before every START: the server itself refuses nothing, it drops commits below the position silently.
        let system = slot::identify(&mut client).await?;
        if let Some(saved) = &saved {
            check_system(&mut client, saved, &system, names).await?;
        }
        let Some(found) = slot::find(&mut client, &config.slot).await? else {
            let what = format!("slot `{}` was dropped", config.slot);
            return Err(Error::Gap { what, hint: gap_hint(names) });
        };
        found.check(names)?;
        if let Some(pid) = found.active_pid {
            stand_by(&mut client, opening, pid, &mut pause).await?;
            continue;
        }
        let (place, skip) = resume(opening, saved.as_ref(), &found, created);
        match begin_copy(&mut client, &slot::start_sql(config, place)).await {
            Ok(()) => break (system, place, skip),
            Err(error) if error.code() == Some("55006") => {
                let pid = slot::find(&mut client, &config.slot).await?.and_then(|slot| slot.active_pid);
                stand_by(&mut client, opening, pid.unwrap_or(0), &mut pause).await?;
            }
            Err(error) => return Err(error),
        }
    };
    let (socket, buffer) = client.into_parts();
    link.start(place, system.end, socket.closer());
    let (read, write) = tokio::io::split(socket);
    tokio::spawn(feedback::run(link.clone(), write, status_interval(wal_sender_timeout)));
    tokio::spawn(watch::run(opening.clone()));
    link.status.set_state(State::Streaming);
    tracing::info!(slot = %config.slot, from = %Lsn(place), "streaming");
    let origin = Origin {
        system_id: system.id,
        timeline: system.timeline,
        question: slot::question(config),
        message_prefix: config.message_prefix.clone(),
        saved: saved.map(|saved| saved.place),
        place,
        skip,
        wal_sender_timeout,
        look_up: config.catalog,
    };
    Ok(Stream::new(read, buffer, link.clone(), origin))
}

/// Where to go on: the saved position, or the slot's where nothing is saved. Both are said where they differ oddly.
fn resume(opening: &Opening, saved: Option<&PgPosition>, found: &Slot, created: Option<u64>) -> (u64, Option<Inside>) {
    match saved.map(|saved| &saved.place) {
        Some(Place::Stream { lsn, inside }) if *lsn >= found.confirmed => {
            (*lsn, inside.filter(|inside| inside.of == slot::question(&opening.config)))
        }
        Some(Place::Stream { lsn, inside }) => {
            tracing::warn!(
                saved = %Lsn(*lsn), slot = %Lsn(found.confirmed),
                "the slot is ahead of the saved position: another instance of this pipeline has gone on, or somebody moved the slot"
            );
            let inside = inside
                .filter(|inside| inside.of == slot::question(&opening.config) && inside.commit >= found.confirmed);
            (found.confirmed, inside)
        }
        Some(Place::Snapshot { .. }) | None => {
            if created.is_none() {
                tracing::info!(slot = %Lsn(found.confirmed), "no position of the stream is saved: begin at the slot's own");
            }
            (created.unwrap_or(found.confirmed), None)
        }
    }
}

/// Says who holds the slot, and waits a little.
async fn stand_by(client: &mut Client, opening: &Opening, pid: i32, pause: &mut Duration) -> Result<(), Error> {
    // A former session of ours may just be leaving: no word about the first moment.
    if *pause > STANDBY_FIRST * 2 {
        let holder = slot::holder(client, pid).await?;
        opening.link.status.set_state(State::Standby { holder });
    }
    opening.link.status.source_seen.touch();
    sleep(*pause).await;
    *pause = (*pause * 2).min(STANDBY_MAX);
    Ok(())
}

/// Sends `START_REPLICATION` and waits for CopyBoth.
async fn begin_copy(client: &mut Client, sql: &str) -> Result<(), Error> {
    client.send_query(sql).await?;
    let mut refused = None;
    loop {
        match client.message().await {
            Ok(Incoming::CopyBoth) => return Ok(()),
            Ok(Incoming::Known(Message::ErrorResponse(body))) => refused = Some(server_error(body.fields())),
            Ok(Incoming::Known(Message::ReadyForQuery(_))) => {
                return Err(refused.unwrap_or_else(|| Error::Protocol("START_REPLICATION did not start".into())));
            }
            Ok(_) => {}
            Err(error) => return Err(refused.unwrap_or(error)),
        }
    }
}

/// Quotes a slot's name.
pub(super) fn quoted(name: &str) -> String {
    escape_identifier(name)
}
