//! From a configuration and a saved position to a running stream: the checks, the standby, the gap decisions.
//!
//! ```text
//!   connect ─▶ IDENTIFY_SYSTEM ─▶ publication, table ─▶ slot ─┬─ none, nothing saved ─▶ snapshot (or create) ─┐
//!                                                             ├─ none, but saved ─▶ gap possible              │
//!                                                             ├─ lost, foreign ─▶ gap possible                ▼
//!                                                             ├─ in use ─▶ standby, connect again       START_REPLICATION
//!                                                             └─ ours ───────────────────────────────────────▲
//! ```

use super::capture::Captured;
use super::client::{Client, Incoming, server_error};
use super::config::{PostgresConfig, Snapshot};
use super::failure::{Error, Names, classify, gap_hint};
use super::feedback::{self, Confirmer, Link};
use super::filter::Filter;
use super::position::{Inside, PgPosition, Place};
use super::slot::{self, Slot, System};
use super::stream::{Messages, Origin, Stream, status_interval};
use super::target::Target;
use super::{TableCheck, catalog, publication, snapshot, standby, watch};
use crate::metrics::{State, Status};
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::backend::Message;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tailwater_core::{Confirm, Failure, Position};
use tokio::time::sleep;

/// A former session of ours may just be leaving: no word about the first moments.
const LEAVING: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(100)];

/// What an opening has learned; everything the later steps need.
#[derive(Clone)]
pub(super) struct Opening {
    pub config: PostgresConfig,
    pub target: Target,
    pub names: Names,
    pub system: System,
    pub link: Arc<Link>,
    pub filter: Arc<Filter>,
    /// Change events: what is captured, as of the opening.
    pub captured: Arc<Captured>,
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
    check: Option<&TableCheck>,
    status: Arc<Status>,
) -> Result<(Begin, Arc<dyn Confirm>, Opening), Failure> {
    let target = Target::resolve(&config.connection).map_err(|error| classify(error, &Names::default()))?;
    let names = names(config, &target);
    let opened = open_inner(config, from, check, target, &names, status.clone()).await;
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
    check: Option<&TableCheck>,
    target: Target,
    names: &Names,
    status: Arc<Status>,
) -> Result<(Begin, Arc<dyn Confirm>, Opening), Error> {
    let saved = from.as_ref().map(PgPosition::parse).transpose()?;
    let filter = Arc::new(Filter::new(&config.tables).map_err(Error::Config)?);
    loop {
        let mut client = Client::connect(&target).await?;
        let system = slot::identify(&mut client).await?;
        status.source_seen.touch();
        if let Some(saved) = &saved {
            check_system(&mut client, saved, &system, names).await?;
        }
        let link = Link::new(status.clone());
        let found = slot::find(&mut client, &config.slot).await?;
        let reading = found.is_some() || saved.is_some();
        let captured = Arc::new(publication::prepare(&mut client, config, &filter, names, reading).await?);
        if let Some(check) = check {
            catalog::check(&mut client, &captured, check).await?;
        }
        // The SQL session beside the stream must ask the very server that streams.
        let target = Target { endpoints: vec![client.endpoint.clone()], ..target.clone() };
        let (config, names, filter) = (config.clone(), names.clone(), filter.clone());
        let opening = Opening { config, target, names, system, link, filter, captured };
        if let Some(begin) = begin(client, &opening, found, saved.clone()).await? {
            let confirm = Arc::new(Confirmer { link: opening.link.clone(), system_id: opening.system.id });
            return Ok((begin, confirm, opening));
        }
    }
}

/// What is read first, by what there is; `None`: somebody else was at it, and all may be different now.
async fn begin(
    mut client: Client,
    opening: &Opening,
    found: Option<Slot>,
    saved: Option<PgPosition>,
) -> Result<Option<Begin>, Error> {
    let Opening { config, names, .. } = opening;
    if found.is_some() {
        return Ok(Some(Begin::Stream(Box::new(start(client, opening, saved, None).await?))));
    }
    if let Some(saved @ PgPosition { place: Place::Stream { .. }, .. }) = saved {
        let what = format!("slot `{}` does not exist any more, but a position is saved (`{saved}`)", config.slot);
        return Err(Error::Gap { what, hint: gap_hint(names) });
    }
    if config.snapshot == Snapshot::Initial {
        if !standby::claim_snapshot(&mut client, &config.slot).await? {
            drop(client);
            standby::for_snapshot(opening).await?;
            return Ok(None);
        }
        publication::check_readable(config, names, &opening.captured)?;
        return Ok(Some(Begin::Snapshot(Box::new(snapshot::begin(client, opening.clone()).await?))));
    }
    let consistent = snapshot::create_slot(&mut client, opening, false).await?;
    tracing::info!(slot = %config.slot, at = %Lsn(consistent), "slot created, without a snapshot");
    Ok(Some(Begin::Stream(Box::new(start(client, opening, None, Some(consistent)).await?))))
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
    let mut leaving = LEAVING.into_iter();
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
        if found.active_pid.is_none() {
            let (place, skip) = resume(opening, saved.as_ref(), &found, created);
            match begin_copy(&mut client, &slot::start_sql(config, place)).await {
                Ok(()) => break (system, place, skip),
                Err(error) if error.code() == Some("55006") => sleep(LEAVING[0]).await,
                Err(error) => return Err(error),
            }
        }
        if let Some(pause) = leaving.next() {
            sleep(pause).await;
            continue;
        }
        drop(client);
        standby::for_slot(opening).await?;
        client = Client::connect(&opening.target).await?;
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
        messages: Messages::of(config),
        saved: saved.map(|saved| saved.place),
        place,
        skip,
        wal_sender_timeout,
        look_up: config.wants_catalog(),
        filter: config.table.is_empty().then(|| opening.filter.clone()),
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
