//! The stream itself: frames → changes, in batches, read cancel-safely from one buffer.
//!
//! In backlog it reads lazily: after a small read it naps, so that the kernel's buffer fills and one read brings many rows.
//! Caught up it reads at once. Not here: what is told to the server (`feedback.rs`).

use super::client::{frame_length, server_error, server_message};
use super::config::PostgresConfig;
use super::failure::Error;
use super::feedback::Link;
use super::filter::Filter;
use super::position::{Inside, PgPosition, Place};
use super::socket::Socket;
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tailwater_core::change::OldTuple;
use tailwater_core::pgoutput::{Assembled, Assembler};
use tailwater_core::{Batch, Change, Event, Relation, Row, Tuple, Value};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::time::{Instant, sleep_until};

/// One read brings at most so much; changes pin the chunk they came in.
const CHUNK_BYTES: usize = 128 << 10;
/// A batch ends after so much, so that progress is fine-grained.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_CHANGES: usize = 1000;
/// Unread WAL known to lie behind: from here on reading is lazy.
const BACKLOG_BYTES: u64 = 1 << 20;
/// A read smaller than this, in backlog, is followed by a nap.
const SMALL_READ_BYTES: usize = 48 << 10;
const NAP: Duration = Duration::from_millis(2);
/// Idle progress is reported at most this often.
const IDLE_GAP: Duration = Duration::from_millis(100);
/// A server that answers no probe for so long is gone, whatever wal_sender_timeout says.
const SILENCE_MIN: Duration = Duration::from_secs(10);
const SILENCE_DEFAULT: Duration = Duration::from_secs(60);

/// A stream that has started.
pub(super) struct Stream {
    read: ReadHalf<Socket>,
    buffer: BytesMut,
    assembler: Assembler,
    link: Arc<Link>,
    system_id: u64,
    timeline: u32,
    /// See `slot::question`.
    question: u32,
    /// Which logical messages are taken.
    messages: Messages,
    /// Everything before it was handed over, outside any transaction.
    place: u64,
    /// Settled before we were opened: not handed over again.
    skip: Option<Inside>,
    /// Last position handed over.
    reported: Place,
    reported_at: Instant,
    nap_until: Option<Instant>,
    heard_at: Instant,
    polled_at: Instant,
    probed_at: Instant,
    probe_every: Duration,
    silence_limit: Duration,
    /// A table's description whose catalog part is still to be looked up.
    pub described: Option<Arc<Relation>>,
    look_up: bool,
    filter: Option<Arc<Filter>>,
    /// Tables of the publication that are not captured.
    ignored: HashSet<u32>,
    /// Memory of a change beside its bytes, at most, by the widest table so far (old and new row).
    held_max: usize,
}

/// What a stream starts from.
pub(super) struct Origin {
    pub system_id: u64,
    pub timeline: u32,
    pub question: u32,
    pub messages: Messages,
    /// What is saved.
    pub saved: Option<Place>,
    pub place: u64,
    pub skip: Option<Inside>,
    pub wal_sender_timeout: Duration,
    pub look_up: bool,
    /// Which tables are captured, where the publication may have others too.
    pub filter: Option<Arc<Filter>>,
}

/// Logical messages that are handed over.
pub(super) enum Messages {
    None,
    Of(Bytes),
    All,
}

impl Messages {
    pub fn of(config: &PostgresConfig) -> Messages {
        match &config.message_prefix {
            Some(prefix) => Messages::Of(Bytes::copy_from_slice(prefix.as_bytes())),
            None if config.messages => Messages::All,
            None => Messages::None,
        }
    }

    fn take(&self, prefix: &[u8]) -> bool {
        match self {
            Messages::None => false,
            Messages::Of(wanted) => *wanted == *prefix,
            Messages::All => true,
        }
    }
}

impl Stream {
    pub fn new(read: ReadHalf<Socket>, buffer: BytesMut, link: Arc<Link>, origin: Origin) -> Stream {
        let now = Instant::now();
        // A position that is not the saved one is worth saving at once.
        let reported = origin.saved.clone().unwrap_or(Place::Snapshot { consistent: 0, rows: 0 });
        Stream {
            read,
            buffer,
            assembler: Assembler::new(origin.system_id),
            link,
            system_id: origin.system_id,
            timeline: origin.timeline,
            question: origin.question,
            messages: origin.messages,
            place: origin.place,
            skip: origin.skip,
            reported,
            reported_at: now.checked_sub(IDLE_GAP).unwrap_or(now),
            nap_until: None,
            heard_at: now,
            polled_at: now,
            probed_at: now,
            probe_every: status_interval(origin.wal_sender_timeout),
            silence_limit: match origin.wal_sender_timeout {
                Duration::ZERO => SILENCE_DEFAULT,
                limit => limit.max(SILENCE_MIN),
            },
            described: None,
            look_up: origin.look_up,
            filter: origin.filter,
            ignored: HashSet::new(),
            held_max: size_of::<Change>(),
        }
    }

    /// The next batch; `None`: a table's description wants its catalog part first (`described`). Cancel-safe: it waits only
    /// for bytes, and what was read stays in the buffer.
    pub async fn next(&mut self, room: usize) -> Result<Option<Batch>, Error> {
        if self.polled_at.elapsed() > Duration::from_secs(2) {
            // Nobody listened meanwhile: silence counts from now on.
            self.heard_at = Instant::now();
        }
        loop {
            if let Some(error) = self.link.take_failure() {
                return Err(error);
            }
            if let Some(batch) = self.decode(room)? {
                return Ok(Some(batch));
            }
            if self.described.is_some() {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    /// Decodes what the buffer holds, up to the limits of a batch.
    fn decode(&mut self, room: usize) -> Result<Option<Batch>, Error> {
        let mut changes = Vec::new();
        let mut size_bytes = 0;
        let limit = room.min(BATCH_BYTES);
        let mut progress = false;
        while let Some(length) = frame_length(&self.buffer)? {
            if self.buffer.len() < length || self.described.is_some() {
                break;
            }
            let full = size_bytes + length + self.held_max > limit || changes.len() >= BATCH_CHANGES;
            if full && !changes.is_empty() {
                break;
            }
            let mut frame = self.buffer.split_to(length);
            if frame.first() == Some(&b'd') {
                frame.advance(5);
                progress |= self.copy_data(frame.freeze(), &mut changes, &mut size_bytes)?;
            } else {
                self.other(frame)?;
            }
        }
        Ok(self.batch(changes, size_bytes, progress))
    }

    /// Closes a batch: changes, or progress that is worth telling.
    fn batch(&mut self, changes: Vec<Change>, size_bytes: usize, progress: bool) -> Option<Batch> {
        let inside = match (self.assembler.open_transaction(), self.skip) {
            (Some((commit, ordinal)), skip) => {
                let ordinal = skip.filter(|skip| skip.commit == commit.lsn).map_or(ordinal, |s| s.ordinal.max(ordinal));
                Some(Inside { commit: commit.lsn, ordinal, of: self.question })
            }
            // The transaction that was begun before has not come again yet.
            (None, Some(skip)) => Some(skip),
            (None, None) => None,
        };
        let upto = Place::Stream { lsn: self.place, inside };
        let moved = upto != self.reported;
        // A keepalive's position can wait a little; the end of a transaction cannot, the ledger waits for it.
        if changes.is_empty() && !(moved && (progress || self.reported_at.elapsed() >= IDLE_GAP)) {
            return None;
        }
        self.reported = upto.clone();
        self.reported_at = Instant::now();
        let upto = PgPosition { system_id: self.system_id, timeline: self.timeline, place: upto }.to_position();
        Some(Batch { changes, size_bytes, upto })
    }

    /// One CopyData (protocol, "Streaming Replication Protocol"): XLogData or keepalive. True at the end of a transaction.
    fn copy_data(&mut self, mut data: Bytes, changes: &mut Vec<Change>, size: &mut usize) -> Result<bool, Error> {
        match data.first() {
            Some(b'w') if data.len() >= 25 => {
                data.advance(1);
                let lsn = data.get_u64();
                data.advance(16);
                // Inside a large transaction nothing else tells how far behind we are.
                self.link.note_server_end(lsn);
                self.apply(lsn, data, changes, size)
            }
            Some(b'k') if data.len() >= 18 => {
                data.advance(1);
                let wal_end = data.get_u64();
                data.advance(8);
                let asked = data.get_u8() == 1;
                // Its place in the stream tells that the transaction we wait for has passed without changes for us.
                if self.assembler.open_transaction().is_none() && self.skip.is_some_and(|skip| skip.commit < wal_end) {
                    self.skip = None;
                }
                // Inside a transaction it says nothing that we may use.
                if self.assembler.open_transaction().is_none() && self.skip.is_none() {
                    self.place = self.place.max(wal_end);
                }
                self.link.note_received(wal_end);
                if asked {
                    self.link.note_asked(wal_end);
                }
                Ok(false)
            }
            _ => Err(Error::Protocol("a message of the stream that is neither data nor keepalive".into())),
        }
    }

    fn apply(&mut self, lsn: u64, body: Bytes, changes: &mut Vec<Change>, size: &mut usize) -> Result<bool, Error> {
        let length = body.len();
        match self.assembler.apply(lsn, body).map_err(|error| Error::Protocol(error.to_string()))? {
            Assembled::Nothing => {}
            Assembled::Relation(relation) => {
                let held = size_of::<Change>() + 2 * relation.columns.len() * size_of::<Value>();
                self.held_max = self.held_max.max(held);
                let taken = self.filter.as_ref().is_none_or(|filter| filter.takes(&relation.schema, &relation.name));
                if taken {
                    self.ignored.remove(&relation.oid);
                    self.described = self.look_up.then_some(relation);
                } else {
                    self.ignored.insert(relation.oid);
                }
            }
            Assembled::Change(change) => self.keep(change, length, changes, size),
            Assembled::Changes(several) => {
                for change in several {
                    self.keep(change, length, changes, size);
                }
            }
            Assembled::Commit(commit) => {
                if self.skip.is_some_and(|skip| skip.commit <= commit.lsn) {
                    self.skip = None;
                }
                self.place = self.place.max(commit.end_lsn);
                self.link.note_received(commit.end_lsn);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a change, unless it was settled before the last opening, or is a message or of a table nobody asked for.
    fn keep(&mut self, change: Change, length: usize, changes: &mut Vec<Change>, size: &mut usize) {
        if self.assembler.open_transaction().is_none() {
            // A lone message: it lies before every transaction that is still to come, so its end may be confirmed.
            self.place = self.place.max(change.commit.end_lsn);
            self.link.note_received(change.commit.end_lsn);
        }
        let settled = self.skip.is_some_and(|skip| skip.commit == change.commit.lsn && change.ordinal < skip.ordinal);
        let wanted = match &change.event {
            Event::Message(message) => self.messages.take(&message.prefix),
            Event::Row(Row { relation, .. }) | Event::Truncate { relation, .. } => {
                self.ignored.is_empty() || !self.ignored.contains(&relation.oid)
            }
            Event::Undecodable { .. } => true,
        };
        if !settled && wanted {
            *size += length + held_bytes(&change);
            changes.push(change);
        }
    }

    /// What is not CopyData: the end, in one way or another.
    fn other(&mut self, mut frame: BytesMut) -> Result<(), Error> {
        let message = Message::parse(&mut frame)?;
        match message {
            Some(Message::ErrorResponse(body)) => Err(server_error(body.fields())),
            Some(Message::NoticeResponse(body)) => {
                let notice = server_message(body.fields());
                // PostgreSQL 18 goes on without a publication it does not find, and its rows are gone.
                if notice.code == "55000" && notice.message.contains("publication") {
                    return Err(Error::Server(Box::new(notice)));
                }
                tracing::warn!(code = %notice.code, message = %notice.message, "the server says in the stream");
                Ok(())
            }
            Some(Message::ParameterStatus(_)) | None => Ok(()),
            Some(_) => Err(Error::Ended("the server has closed it (it shuts down, or ended our session)")),
        }
    }

    /// Waits for bytes; in backlog naps first.
    async fn fill(&mut self) -> Result<(), Error> {
        let _reading = self.link.reading();
        loop {
            self.polled_at = Instant::now();
            if let Some(until) = self.nap_until {
                sleep_until(until).await;
                self.nap_until = None;
            }
            self.make_space()?;
            let wake_at = self.next_wake();
            tokio::select! {
                biased;
                _ = self.link.failure() => return Ok(()),
                read = self.read.read_buf(&mut self.buffer) => return self.after_read(read?),
                _ = sleep_until(wake_at) => {}
            }
            let silent = self.heard_at.elapsed();
            if silent > self.silence_limit {
                return Err(Error::Timeout("the database has sent nothing, also when asked for a sign of life"));
            }
            if silent >= self.probe_every && self.probed_at.elapsed() >= self.probe_every {
                self.probed_at = Instant::now();
                self.link.probe();
            }
            if self.idle_pending() && self.reported_at.elapsed() >= IDLE_GAP {
                return Ok(());
            }
        }
    }

    fn after_read(&mut self, count: usize) -> Result<(), Error> {
        if count == 0 {
            return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.heard_at = Instant::now();
        self.link.status.source_seen.touch();
        let behind = self.link.server_end().saturating_sub(self.place);
        if count < SMALL_READ_BYTES && behind > BACKLOG_BYTES {
            self.nap_until = Some(self.heard_at + NAP);
        }
        Ok(())
    }

    /// A keepalive's position that has not been reported yet.
    fn idle_pending(&self) -> bool {
        self.assembler.open_transaction().is_none()
            && !matches!(self.reported, Place::Stream { lsn, .. } if lsn == self.place)
    }

    fn next_wake(&self) -> Instant {
        let probe = self.heard_at.max(self.probed_at) + self.probe_every;
        if self.idle_pending() { probe.min(self.reported_at + IDLE_GAP) } else { probe }
    }

    /// Room for the rest of a frame that has begun, at least for a good read.
    fn make_space(&mut self) -> Result<(), Error> {
        let wanted = frame_length(&self.buffer)?.unwrap_or(0).saturating_sub(self.buffer.len());
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < wanted.max(CHUNK_BYTES / 8) {
            self.buffer.reserve(wanted.max(CHUNK_BYTES));
        }
        Ok(())
    }

    /// Hands back a description with its catalog part.
    pub fn describe(&mut self, relation: Arc<Relation>) {
        self.described = None;
        self.assembler.describe(relation);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.link.close_softly();
    }
}

/// How often a status is sent, and a sign of life asked for: a fraction of `wal_sender_timeout`, at most a second.
pub(super) fn status_interval(wal_sender_timeout: Duration) -> Duration {
    match wal_sender_timeout {
        Duration::ZERO => Duration::from_secs(1),
        limit => (limit / 5).clamp(Duration::from_millis(20), Duration::from_secs(1)),
    }
}

/// Memory of a change beside the bytes it was read from.
fn held_bytes(change: &Change) -> usize {
    let tuple = |tuple: &Tuple| tuple.0.len() * size_of::<Value>();
    size_of::<Change>()
        + match &change.event {
            Event::Row(row) => {
                row.new.as_ref().map_or(0, tuple)
                    + row.old.as_ref().map_or(0, |(OldTuple::Key(old) | OldTuple::Full(old))| tuple(old))
            }
            _ => 0,
        }
}
