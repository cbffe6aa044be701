//! What we tell the server: standby status updates, sent by a task of its own that owns the write half.
//!
//! ```text
//!   stream (reads) ──received, asked──▶ ┐                         ┌─▶ `r` to the server, at a fraction of wal_sender_timeout,
//!   loop ──confirm(position)──────────▶ ├─ Link ──▶ feedback task ┤   at once when asked or when a confirmation moved
//!   watch ──failed, server ends───────▶ ┘                         └─▶ CopyDone and goodbye at the end
//! ```
//!
//! Not here: what may be confirmed (the ledger), and reading.

use super::failure::Error;
use super::position::{PgPosition, Place};
use super::socket::Socket;
use crate::metrics::Status;
use async_trait::async_trait;
use bytes::{BufMut, BytesMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tailwater_core::{Confirm, Failure, Position, pgoutput};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Confirmations closer together than this travel as one.
const CONFIRM_GAP: Duration = Duration::from_millis(50);
/// A server that does not take 34 bytes for so long is not reading at all.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What the parts of one opening share. All of it outlives the stream, so a late confirmation harms nobody.
#[derive(Debug)]
pub(super) struct Link {
    /// May be told to the server as flushed.
    confirmed: AtomicU64,
    /// Read by us.
    received: AtomicU64,
    /// The server's own end of WAL, as it last said: nothing beyond it is ever confirmed.
    server_end: AtomicU64,
    /// The server asked for a reply, with this end of WAL; 0: it did not.
    asked: AtomicU64,
    /// We want a sign of life.
    probe: AtomicBool,
    /// Rows of the snapshot that are settled.
    pub snapshot_rows: watch::Sender<u64>,
    wake: Notify,
    closing: AtomicBool,
    closed_wake: Notify,
    /// Why the stream must not go on.
    failed: Mutex<Option<Error>>,
    failed_wake: Notify,
    has_failed: AtomicBool,
    /// Last time the stream was read, ms since `origin`.
    read_at_ms: AtomicU64,
    /// It is being read right now.
    reading: AtomicBool,
    origin: Instant,
    /// Ends the connection at once, whoever is reading or writing.
    closer: Mutex<Option<socket2::Socket>>,
    pub status: Arc<Status>,
}

impl Link {
    pub fn new(status: Arc<Status>) -> Arc<Link> {
        Arc::new(Link {
            confirmed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            server_end: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            probe: AtomicBool::new(false),
            snapshot_rows: watch::Sender::new(0),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            closed_wake: Notify::new(),
            failed: Mutex::new(None),
            failed_wake: Notify::new(),
            has_failed: AtomicBool::new(false),
            read_at_ms: AtomicU64::new(0),
            reading: AtomicBool::new(false),
            origin: Instant::now(),
            closer: Mutex::new(None),
            status,
        })
    }

    /// Before the stream starts: everything up to `confirmed` is saved, the server's WAL ends at `server_end`.
    pub fn start(&self, confirmed: u64, server_end: u64, closer: Option<socket2::Socket>) {
        self.note_server_end(server_end);
        self.confirmed.fetch_max(confirmed, SeqCst);
        self.note_received(confirmed);
        self.status.confirmed_lsn.store(confirmed, SeqCst);
        *self.closer.lock().expect("no panic while the lock is held") = closer;
        self.note_read();
    }

    pub fn confirm(&self, lsn: u64) {
        let lsn = lsn.min(self.server_end.load(SeqCst));
        if self.confirmed.fetch_max(lsn, SeqCst) < lsn {
            self.wake.notify_one();
        }
    }

    pub fn note_received(&self, lsn: u64) {
        let received = self.received.fetch_max(lsn, SeqCst).max(lsn);
        self.status.received_lsn.store(received, SeqCst);
        self.note_server_end(lsn);
    }

    pub fn note_server_end(&self, lsn: u64) {
        let end = self.server_end.fetch_max(lsn, SeqCst).max(lsn);
        self.status.server_lsn.store(end, SeqCst);
    }

    pub fn server_end(&self) -> u64 {
        self.server_end.load(SeqCst)
    }

    /// A keepalive that wants an answer.
    pub fn note_asked(&self, wal_end: u64) {
        self.asked.store(wal_end, SeqCst);
        self.wake.notify_one();
    }

    /// Asks the server for a sign of life.
    pub fn probe(&self) {
        self.probe.store(true, SeqCst);
        self.wake.notify_one();
    }

    /// The stream is being read until the guard is dropped, as it is when a read is cancelled.
    pub fn reading(self: &Arc<Self>) -> Reading {
        self.reading.store(true, SeqCst);
        Reading(self.clone())
    }

    fn note_read(&self) {
        self.read_at_ms.store(self.origin.elapsed().as_millis() as u64, SeqCst);
    }

    /// How long nobody has read the stream.
    pub fn unread_for(&self) -> Duration {
        if self.reading.load(SeqCst) {
            return Duration::ZERO;
        }
        self.origin.elapsed().saturating_sub(Duration::from_millis(self.read_at_ms.load(SeqCst)))
    }

    /// The stream must not go on, whatever it still brings: its next read says why.
    pub fn fail(&self, error: Error) {
        self.failed.lock().expect("no panic while the lock is held").get_or_insert(error);
        self.has_failed.store(true, SeqCst);
        self.failed_wake.notify_one();
    }

    pub fn take_failure(&self) -> Option<Error> {
        if !self.has_failed.load(SeqCst) {
            return None;
        }
        self.failed.lock().expect("no panic while the lock is held").take()
    }

    /// Resolves when [`Link::fail`] was called. Cancel-safe.
    pub async fn failure(&self) {
        while !self.has_failed.load(SeqCst) {
            self.failed_wake.notified().await;
        }
    }

    /// Says goodbye: last status, CopyDone, end.
    pub fn close_softly(&self) {
        self.closing.store(true, SeqCst);
        self.wake.notify_one();
        self.closed_wake.notify_one();
    }

    /// Ends the connection now, also when nobody reads it.
    pub fn close_now(&self) {
        self.closing.store(true, SeqCst);
        self.wake.notify_one();
        self.closed_wake.notify_one();
        if let Some(closer) = self.closer.lock().expect("no panic while the lock is held").take() {
            // It may be gone already, which is what we want.
            drop(closer.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Resolves when the connection is to be ended; for one listener. Cancel-safe.
    pub async fn closed(&self) {
        while !self.is_closing() {
            self.closed_wake.notified().await;
        }
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}

/// See [`Link::reading`].
pub(super) struct Reading(Arc<Link>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.note_read();
        self.0.reading.store(false, SeqCst);
    }
}

/// The source's [`Confirm`].
pub(super) struct Confirmer {
    pub link: Arc<Link>,
    pub system_id: u64,
}

#[async_trait]
impl Confirm for Confirmer {
    async fn confirm(&self, upto: &Position) -> Result<(), Failure> {
        let position = PgPosition::parse(upto).map_err(|error| super::failure::classify(error, &Default::default()))?;
        assert_eq!(position.system_id, self.system_id, "a position of another cluster cannot be confirmed to this one");
        match position.place {
            Place::Stream { lsn, .. } => self.link.confirm(lsn),
            Place::Snapshot { rows, .. } => {
                self.link.snapshot_rows.send_replace(rows);
            }
        }
        Ok(())
    }
}

/// Sends statuses until the stream ends. `interval`: a fraction of wal_sender_timeout.
pub(super) async fn run(link: Arc<Link>, mut write: WriteHalf<Socket>, interval: Duration) {
    let mut buffer = BytesMut::with_capacity(64);
    let mut sent_at = Instant::now();
    let mut sent_confirmed = 0;
    loop {
        let confirmed = link.confirmed.load(SeqCst);
        let urgent = link.asked.load(SeqCst) != 0 || link.probe.load(SeqCst) || link.is_closing();
        let due = if confirmed == sent_confirmed { sent_at + interval } else { sent_at + CONFIRM_GAP };
        if !urgent && Instant::now() < due {
            tokio::select! {
                _ = link.wake.notified() => {}
                _ = sleep_until(due) => {}
            }
            continue;
        }
        let closing = link.is_closing();
        let asked = link.asked.swap(0, SeqCst);
        let probe = link.probe.swap(false, SeqCst) && !closing;
        put_status(&mut buffer, answer(asked, link.received.load(SeqCst), confirmed), probe);
        if closing {
            buffer.put_slice(b"c\0\0\0\x04"); // CopyDone
        }
        let written = timeout(WRITE_LIMIT, async {
            write.write_all_buf(&mut buffer).await?;
            write.flush().await
        });
        let broken = !matches!(written.await, Ok(Ok(())));
        sent_at = Instant::now();
        sent_confirmed = confirmed;
        link.status.confirmed_lsn.store(confirmed, SeqCst);
        if broken || closing {
            // A reader finds out by itself; one who does not read is not helped by us.
            drop(timeout(Duration::from_secs(1), write.shutdown()).await);
            link.close_now();
            return;
        }
    }
}

/// Write, flush and apply of one status.
///
/// A server that shuts down waits until its end of WAL is confirmed, or until flush is 0 and write is that end (observed on
/// PostgreSQL 14–18). An honest lower flush would hold it up for ever. Flush 0 moves no slot, so this answer is given
/// whenever the server asks and something is still in flight: it costs nothing when the server does not shut down.
fn answer(asked: u64, received: u64, confirmed: u64) -> (u64, u64) {
    if asked > confirmed { (asked, 0) } else { (received.max(confirmed), confirmed) }
}

/// `Standby status update` (protocol, "Streaming Replication Protocol"), as CopyData.
fn put_status(buffer: &mut BytesMut, (written, flushed): (u64, u64), reply: bool) {
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as i64);
    buffer.put_u8(b'd');
    buffer.put_i32(4 + 34);
    buffer.put_u8(b'r');
    buffer.put_u64(written);
    buffer.put_u64(flushed);
    buffer.put_u64(flushed);
    buffer.put_i64(pgoutput::pg_us(now_us));
    buffer.put_u8(u8::from(reply));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_while_something_is_in_flight_is_answered_with_flush_zero() {
        assert_eq!(answer(0, 900, 500), (900, 500), "nobody asked: the truth");
        assert_eq!(answer(1000, 900, 500), (1000, 0), "asked, in flight: the server may leave");
        assert_eq!(answer(1000, 1000, 1000), (1000, 1000), "asked, all confirmed: the truth is enough");
    }

    /// T12
    #[tokio::test]
    async fn a_confirmation_never_passes_the_servers_end_and_never_goes_back() {
        let link = Link::new(Arc::new(Status::new("t")));
        link.start(100, 200, None);
        link.confirm(150);
        link.confirm(120);
        assert_eq!(link.confirmed.load(SeqCst), 150);
        link.confirm(1_000_000);
        assert_eq!(link.confirmed.load(SeqCst), 200);
    }

    #[tokio::test]
    async fn a_position_inside_a_transaction_confirms_the_one_before() {
        let link = Link::new(Arc::new(Status::new("t")));
        link.start(0x10, 0x1000, None);
        let confirm = Confirmer { link: link.clone(), system_id: 1 };
        confirm.confirm(&Position::new("pg sys=1 tl=1 lsn=0/20 commit=0/80 ord=5 of=1")).await.unwrap();
        assert_eq!(link.confirmed.load(SeqCst), 0x20);
        assert!(confirm.confirm(&Position::new("what?")).await.unwrap_err().is_fatal());
    }

    #[test]
    fn a_status_has_the_layout_of_the_protocol() {
        let mut buffer = BytesMut::new();
        put_status(&mut buffer, (0x0102, 0x0304), true);
        assert_eq!(buffer.len(), 39);
        assert_eq!(&buffer[..6], b"d\0\0\0\x26r");
        assert_eq!(&buffer[6..30], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(buffer[38], 1);
    }
}
