//! The look from beside the stream, over the process's shared SQL session: sees what the stream does not say.
//!
//! A publication or table that is gone, a slot that was invalidated while nobody read, and a server that shuts down while
//! the ledger is full and nobody reads. It only looks; what it finds ends the stream.

use super::capture::{self, Captured};
use super::failure::Error;
use super::open::Opening;
use super::publication;
use super::shared::{Shared, shared};
use postgres_protocol::escape::escape_literal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::SimpleQueryMessage;

/// Publication, table and slot are looked at this often.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Between two attempts to reach the server; and so long an error waits for its reason.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A stream that keeps up with a stopping server ends by itself within this time.
const GRACE: Duration = Duration::from_millis(300);
/// A stream nobody reads, of a server nobody can ask, is closed after this time: it may be holding up a shutdown.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// Watches until the stream closes.
pub(super) async fn run(opening: Opening) {
    let mut captured = opening.captured.clone();
    while !opening.link.is_closing() {
        match timeout(ANSWER_LIMIT, shared(&opening.target)).await {
            Ok(Ok(session)) => match watch(&opening, &mut captured, &session).await {
                Ok(()) => {}
                Err(error) if is_shutdown(&error) => tracing::debug!("the SQL session was ended by the server"),
                Err(error) => {
                    tracing::warn!(%error, "the SQL session that watches publication and slot broke; again");
                    session.give_up();
                    sleep(LOOK_EVERY).await;
                }
            },
            // The server accepts nobody any more: it is stopping.
            Ok(Err(error)) if is_stopping(&error) => return end(&opening, "the server shuts down").await,
            Ok(Err(error)) => unreachable_server(&opening, &error).await,
            Err(_) => {}
        }
    }
}

async fn unreachable_server(opening: &Opening, error: &Error) {
    tracing::debug!(%error, "no SQL session beside the stream");
    if opening.link.unread_for() > UNREAD_LIMIT {
        return end(opening, "nobody reads it, and the server cannot be asked whether it shuts down").await;
    }
    sleep(LOOK_EVERY).await;
}

async fn end(opening: &Opening, why: &'static str) {
    if opening.link.unread_for() < GRACE {
        sleep(GRACE).await;
    }
    opening.link.fail(Error::Ended(why));
    opening.link.close_now();
}

/// One session; `Ok`: the stream closes, or the session is old.
async fn watch(opening: &Opening, captured: &mut Arc<Captured>, session: &Shared) -> Result<(), Error> {
    let mut next_check = Instant::now();
    loop {
        if opening.link.is_closing() || session.is_old() {
            return Ok(());
        }
        if Instant::now() >= next_check {
            match timeout(ANSWER_LIMIT, check(opening, captured, session)).await {
                Ok(Ok(())) => opening.link.status.source_seen.touch(),
                Ok(Err(error @ Error::Gap { .. })) => {
                    opening.link.fail(error);
                    opening.link.close_now();
                    return Ok(());
                }
                // Somebody has a table locked: the next look will tell.
                Ok(Err(error)) if matches!(error.code(), Some("55P03" | "57014")) => {
                    tracing::debug!(%error, "publication and slot could not be looked at this time");
                }
                // How the session ended says more than that it ended.
                Ok(Err(error)) => return Err(timeout(LOOK_EVERY, session.ended()).await.unwrap_or(error)),
                Err(_) => return Err(Error::Timeout("the database does not answer a query")),
            }
            next_check = Instant::now() + CHECK_EVERY;
        }
        tokio::select! {
            error = session.ended() => return Err(error),
            () = opening.link.closed() => return Ok(()),
            () = sleep_until(next_check) => {}
        }
    }
}

async fn check(opening: &Opening, captured: &mut Arc<Captured>, session: &Shared) -> Result<(), Error> {
    let names = &opening.names;
    if opening.config.table.is_empty() {
        check_captured(opening, captured, session).await?;
    } else {
        let row = first(session, &publication::outbox_sql(&opening.config)).await?;
        let is = |index: usize| row.get(index).and_then(Option::as_deref) == Some("t");
        publication::check_outbox(is(0), is(1), names, true)?;
    }
    let sql = format!(
        "SELECT pg_catalog.pg_current_wal_flush_lsn(), \
         (SELECT wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = {})",
        escape_literal(&names.slot)
    );
    let row = first(session, &sql).await?;
    if let Some(end) = row.first().and_then(|end| end.as_deref()?.parse::<Lsn>().ok()) {
        opening.link.note_server_end(end.0);
    }
    if row.get(1).and_then(Option::as_deref) == Some("lost") {
        let what = format!("slot `{}` was invalidated: the server has removed WAL that was not read", names.slot);
        return Err(Error::Gap { what, hint: super::failure::gap_hint(names) });
    }
    Ok(())
}

/// Change events: which tables are captured now, and what became of the others.
async fn check_captured(opening: &Opening, captured: &mut Arc<Captured>, session: &Shared) -> Result<(), Error> {
    let names = &opening.names;
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {})",
        escape_literal(&names.publication)
    );
    if first(session, &sql).await?.first().and_then(Option::as_deref) != Some("t") {
        let what = format!("publication `{}` does not exist any more", names.publication);
        return Err(Error::Gap { what, hint: super::failure::gap_hint(names) });
    }
    let rows = all(session, &capture::published_sql(&names.publication, false)).await?;
    let tables = rows.iter().map(|row| capture::table(|index| row.get(index)?.as_deref())).collect::<Result<_, _>>()?;
    let now = Captured::new(tables, &opening.filter);
    let mut exists = BTreeMap::new();
    let missing: Vec<String> = captured.missing_in(&now).iter().map(u32::to_string).collect();
    if !missing.is_empty() {
        let sql = format!("SELECT oid, relispartition FROM pg_catalog.pg_class WHERE oid IN ({})", missing.join(", "));
        for row in all(session, &sql).await? {
            let oid = row.first().and_then(|oid| oid.as_deref()?.parse().ok());
            exists.extend(oid.map(|oid| (oid, row.get(1).and_then(Option::as_deref) == Some("t"))));
        }
    }
    for notice in captured.compare(&now, &exists, names)? {
        tracing::warn!(pipeline = %opening.link.status.name, "{notice}");
    }
    *captured = Arc::new(now);
    Ok(())
}

type Values = Vec<Option<String>>;

async fn all(session: &Shared, sql: &str) -> Result<Vec<Values>, Error> {
    let values = |message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()),
        _ => None,
    };
    Ok(session.simple_query(sql).await?.into_iter().filter_map(values).collect())
}

async fn first(session: &Shared, sql: &str) -> Result<Values, Error> {
    let rows = all(session, sql).await?;
    rows.into_iter().next().ok_or_else(|| Error::Protocol("a query without an answer".into()))
}

fn is_shutdown(error: &Error) -> bool {
    matches!(error.code(), Some("57P01" | "57P02" | "57P03"))
}

/// `57P03 the database system is shutting down`, or nobody listens any more.
fn is_stopping(error: &Error) -> bool {
    match error {
        Error::Connect(_, error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        error => error.code() == Some("57P03"),
    }
}
