//! One ordinary SQL session per database and role for all pipelines of the process, beside their streams.
//!
//! It only asks questions of the catalog, each in a statement of its own, so nobody notices the others. Two hundred
//! pipelines on one server cost it two hundred walsenders and one backend. Not for anything that changes something, or
//! that may wait for a lock: those use a session of their own (`connect.rs`).

use super::connect::session;
use super::failure::{Error, ServerError};
use super::target::Target;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;

/// A session is replaced by a new one after this time: a server in smart shutdown waits for sessions, and tells only newcomers.
const SESSION_AGE: Duration = Duration::from_secs(60);
/// A lock on one table must not keep the questions of all the others waiting.
const LIMITS: &str = "SET lock_timeout = '3s'; SET statement_timeout = '15s'";

/// A session in use by anybody. It ends when the last user lets go of it.
pub(super) struct Shared {
    client: Client,
    since: Instant,
    ended: watch::Receiver<Option<End>>,
    /// Somebody waited for an answer in vain.
    deaf: AtomicBool,
}

/// How a session ended.
#[derive(Clone, Debug)]
enum End {
    Server(Box<ServerError>),
    Other,
}

impl Deref for Shared {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Shared {
    pub fn is_old(&self) -> bool {
        self.since.elapsed() >= SESSION_AGE
    }

    /// Resolves when the session has ended, with the server's last word. Cancel-safe.
    pub async fn ended(&self) -> Error {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        match end {
            Some(End::Server(error)) => Error::Server(error),
            _ => Error::Io(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// It does not answer: whoever asks for a session next gets a new one.
    pub fn give_up(&self) {
        self.deaf.store(true, Relaxed);
    }

    fn is_good(&self) -> bool {
        !self.is_old() && !self.client.is_closed() && !self.deaf.load(Relaxed)
    }
}

/// What makes two sessions the same. The target itself: it holds the password, and compares it.
type Place = Mutex<Vec<(Target, Arc<tokio::sync::Mutex<Weak<Shared>>>)>>;

static SESSIONS: LazyLock<Place> = LazyLock::new(Place::default);

/// The process's session at `target`, opened if there is none that is young and alive.
pub(super) async fn shared(target: &Target) -> Result<Arc<Shared>, Error> {
    let place = place(target);
    // One opens it, the others wait here: two hundred pipelines that start at once make one connection.
    let mut place = place.lock().await;
    if let Some(good) = place.upgrade().filter(|shared| shared.is_good()) {
        return Ok(good);
    }
    let (client, task) = session(target).await?;
    client.batch_execute(LIMITS).await?;
    let (tell, ended) = watch::channel(None);
    tokio::spawn(async move {
        let end = match task.await {
            Ok(Some(Error::Server(error))) => End::Server(error),
            _ => End::Other,
        };
        tell.send_replace(Some(end));
    });
    let shared = Arc::new(Shared { client, since: Instant::now(), ended, deaf: AtomicBool::new(false) });
    *place = Arc::downgrade(&shared);
    Ok(shared)
}

fn place(target: &Target) -> Arc<tokio::sync::Mutex<Weak<Shared>>> {
    let mut places = SESSIONS.lock().expect("no panic while the lock is held");
    if let Some((_, place)) = places.iter().find(|(known, _)| known == target) {
        return place.clone();
    }
    // Those nobody uses any more make room: their lock is held by nobody, their session is gone.
    places.retain(|(_, place)| place.try_lock().map_or(true, |place| place.strong_count() > 0));
    let place = Arc::default();
    places.push((target.clone(), Arc::clone(&place)));
    place
}
