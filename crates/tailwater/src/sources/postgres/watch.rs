//! The ordinary SQL session beside the stream: sees what the stream does not say.
//!
//! A publication or table that is gone, a slot that was invalidated while nobody read, and a server that shuts down while
//! the ledger is full and nobody reads. It only looks; what it finds ends the stream.

use super::connect::session;
use super::failure::Error;
use super::open::Opening;
use super::slot;
use postgres_protocol::escape::escape_literal;
use std::time::Duration;
use tailwater_core::pgoutput::Lsn;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Publication, table and slot are looked at this often.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// The session's end is noticed at once; this is how often we look whether the stream itself has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A session is replaced by a new one after this time: a server in smart shutdown waits for sessions, and tells only newcomers.
const SESSION_AGE: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A stream that keeps up with a stopping server ends by itself within this time.
const GRACE: Duration = Duration::from_millis(300);
/// A stream nobody reads, of a server nobody can ask, is closed after this time: it may be holding up a shutdown.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// Watches until the stream closes.
pub(super) async fn run(opening: Opening) {
    while !opening.link.is_closing() {
        match timeout(ANSWER_LIMIT, session(&opening.target)).await {
            Ok(Ok((client, ended))) => match watch(&opening, client, ended).await {
                Ok(()) => {}
                Err(error) if is_shutdown(&error) => tracing::debug!("the SQL session was ended by the server"),
                Err(error) => tracing::warn!(%error, "the SQL session that watches publication and slot broke; again"),
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
async fn watch(opening: &Opening, client: Client, mut ended: JoinHandle<Option<Error>>) -> Result<(), Error> {
    let mut next_check = Instant::now();
    let replace_at = next_check + SESSION_AGE;
    loop {
        if opening.link.is_closing() || Instant::now() >= replace_at {
            return Ok(());
        }
        if Instant::now() >= next_check {
            match timeout(ANSWER_LIMIT, check(opening, &client)).await {
                Ok(Ok(())) => opening.link.status.source_seen.touch(),
                Ok(Err(error @ Error::Gap { .. })) => {
                    opening.link.fail(error);
                    opening.link.close_now();
                    return Ok(());
                }
                // How the session ended says more than that it ended.
                Ok(Err(error)) => {
                    let reason = timeout(LOOK_EVERY, &mut ended).await.ok().and_then(Result::ok).flatten();
                    return Err(reason.unwrap_or(error));
                }
                Err(_) => return Err(Error::Timeout("the database does not answer a query")),
            }
            next_check = Instant::now() + CHECK_EVERY;
        }
        if let Ok(ended) = timeout(LOOK_EVERY, &mut ended).await {
            return Err(ended.ok().flatten().unwrap_or(Error::Io(std::io::ErrorKind::UnexpectedEof.into())));
        }
    }
}

async fn check(opening: &Opening, client: &Client) -> Result<(), Error> {
    let names = &opening.names;
    let row = first(client, &slot::publication_sql(&opening.config)).await?;
    let is = |index: usize| row.get(index).and_then(Option::as_deref) == Some("t");
    slot::check_publication(is(0), is(1), names, true)?;
    let sql = format!(
        "SELECT pg_catalog.pg_current_wal_flush_lsn(), \
         (SELECT wal_status FROM pg_catalog.pg_replication_slots WHERE slot_name = {})",
        escape_literal(&names.slot)
    );
    let row = first(client, &sql).await?;
    if let Some(end) = row.first().and_then(|end| end.as_deref()?.parse::<Lsn>().ok()) {
        opening.link.note_server_end(end.0);
    }
    if row.get(1).and_then(Option::as_deref) == Some("lost") {
        let what = format!("slot `{}` was invalidated: the server has removed WAL that was not read", names.slot);
        return Err(Error::Gap { what, hint: super::failure::gap_hint(names) });
    }
    Ok(())
}

async fn first(client: &Client, sql: &str) -> Result<Vec<Option<String>>, Error> {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect());
        }
    }
    Err(Error::Protocol("a query without an answer".into()))
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
