//! One channel with confirms as a `Publisher`: bytes out, confirms in, and nothing forgotten in between.
//!
//! All state lives in the struct and every await is one poll of the socket, so `drive` may be dropped at any point (P4).
//! It never sends anything again and never opens a second channel: after an error it is dead, and the lane starts over (P5).
//! Confirms restart at tag 1 on every channel, and this value lives as long as its channel: a late confirm of an old
//! channel cannot be taken for one of a new (T34).

use super::address::Addressing;
use super::connect::Connection;
use super::failure::{AmqpError, Blame, blame, classify};
use super::frame::{self, Close, Frame, Method, Writer};
use super::window::Window;
use crate::metrics::Status;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tailwater_core::{Failure, Publisher, Rejection, Settled, Slice};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

/// Laid out ahead of the socket at most so much (one larger message excepted).
const OUT_MAX: usize = 256 << 10;
/// After a nack: how long the remaining confirms may take before the lane starts over.
const NACK_LINGER: Duration = Duration::from_secs(5);
/// After a failed write: how long the reason may take to arrive. It can be behind the reset (observed: within 1 s).
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A returned message whose content is still arriving.
struct Return {
    code: u16,
    exchange: String,
    routing_key: String,
    id: Option<bytes::Bytes>,
    remaining: u64,
}

/// See the module.
pub struct RabbitmqPublisher {
    connection: Connection,
    addressing: Arc<Addressing>,
    status: Arc<Status>,
    window: Window,
    /// Whole frames, laid out and not yet written.
    out: BytesMut,
    flushed: bool,
    returning: Option<Return>,
    /// Not yet reported.
    rejected: Vec<Rejection>,
    /// Reported once everything known before it was.
    failed: Option<AmqpError>,
    dead: bool,
    write_failed: Option<(Instant, AmqpError)>,
    nacked_at: Option<Instant>,
    heard_at: Instant,
    wrote_at: Instant,
    /// Silence was noticed: what may lie unread since gets one more second to be read.
    suspected_at: Option<Instant>,
}

impl RabbitmqPublisher {
    /// `connection` has its channel in confirm mode and nothing in flight.
    pub fn new(connection: Connection, addressing: Arc<Addressing>, status: Arc<Status>) -> Self {
        let now = Instant::now();
        status.sink_seen.touch();
        RabbitmqPublisher {
            connection,
            addressing,
            status,
            window: Window::default(),
            out: BytesMut::with_capacity(64 << 10),
            flushed: true,
            returning: None,
            rejected: vec![],
            failed: None,
            dead: false,
            write_failed: None,
            nacked_at: None,
            heard_at: now,
            wrote_at: now,
            suspected_at: None,
        }
    }

    /// Lays out waiting messages, as many as belong into one write.
    fn fill(&mut self) {
        if self.connection.blocked || self.nacked_at.is_some() || self.write_failed.is_some() {
            return;
        }
        while self.out.len() < OUT_MAX {
            let Some((index, message)) = self.window.next_to_send() else { break };
            match self.addressing.encode(message, self.connection.frame_max, &mut self.out) {
                Ok(()) => self.window.sent(),
                Err(reason) => {
                    self.rejected.push(Rejection { index, id: message.id.clone(), reason });
                    self.window.unsendable();
                }
            }
        }
    }

    /// One round of writing and reading. Ready when anything moved.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AmqpError>> {
        let wrote = self.poll_write(cx);
        self.take_frames()?;
        if self.connection.input.capacity() - self.connection.input.len() < 4096 {
            self.connection.input.reserve(32 << 10);
        }
        let read = pin!(self.connection.stream.read_buf(&mut self.connection.input)).poll(cx);
        match read {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(self.last_words(AmqpError::Eof))),
            Poll::Ready(Ok(_)) => {
                self.heard_at = Instant::now();
                self.suspected_at = None;
                self.status.sink_seen.touch();
                Poll::Ready(self.take_frames())
            }
            Poll::Ready(Err(error)) => {
                let error = AmqpError::io(format!("read from {}", self.connection.endpoint))(error);
                Poll::Ready(Err(self.last_words(error)))
            }
            Poll::Pending if wrote => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The first error is the cause; later ones follow from it.
    fn last_words(&mut self, error: AmqpError) -> AmqpError {
        self.write_failed.take().map_or(error, |(_, first)| first)
    }

    /// True if bytes moved. A failure only stops writing: the reason may still be readable.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.write_failed.is_some() || (self.out.is_empty() && self.flushed) {
            return false;
        }
        let mut moved = false;
        let mut stream = Pin::new(&mut *self.connection.stream);
        let mut result = Ok(());
        while !self.out.is_empty() {
            match stream.as_mut().poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => {
                    result = Err(std::io::ErrorKind::WriteZero.into());
                    break;
                }
                Poll::Ready(Ok(n)) => {
                    self.out.advance(n);
                    self.flushed = false;
                    moved = true;
                }
                Poll::Ready(Err(error)) => {
                    result = Err(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
        if result.is_ok() && !self.flushed {
            match stream.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => result = Err(error),
                Poll::Pending => {}
            }
        }
        if self.out.is_empty() && self.out.capacity() > 4 << 20 {
            self.out = BytesMut::with_capacity(64 << 10); // a huge message's room is given back
        }
        if moved {
            self.wrote_at = Instant::now();
        }
        if let Err(error) = result {
            let error = AmqpError::io(format!("write to {}", self.connection.endpoint))(error);
            self.write_failed = Some((Instant::now(), error));
        }
        moved
    }

    fn take_frames(&mut self) -> Result<(), AmqpError> {
        while let Some(frame) = frame::decode(&mut self.connection.input, self.connection.frame_max)? {
            match frame {
                Frame::Method { method, .. } => self.take_method(method)?,
                Frame::Header { body_size, properties, .. } => {
                    if let Some(returning) = &mut self.returning {
                        returning.id = frame::message_id_of(&properties)?;
                        returning.remaining = body_size;
                        self.finish_return()?;
                    }
                }
                Frame::Body { length, .. } => {
                    if let Some(returning) = &mut self.returning {
                        returning.remaining = returning.remaining.saturating_sub(length as u64);
                        self.finish_return()?;
                    }
                }
                Frame::Heartbeat => {}
            }
        }
        Ok(())
    }

    fn take_method(&mut self, method: Method) -> Result<(), AmqpError> {
        match method {
            Method::Ack { tag, multiple } => self.window.ack(tag, multiple)?,
            Method::Nack { tag, multiple } => {
                self.window.nack(tag, multiple)?;
                self.nacked_at.get_or_insert_with(Instant::now);
            }
            Method::Return { code, exchange, routing_key, .. } => {
                self.returning = Some(Return { code, exchange, routing_key, id: None, remaining: u64::MAX });
            }
            Method::ChannelClose(close) => return Err(self.channel_closed(close)),
            Method::Close(close) => return Err(AmqpError::Connection(close)),
            Method::Blocked { reason } => {
                tracing::warn!(endpoint = %self.connection.endpoint, %reason, "the broker takes no messages for now");
                self.set_blocked(true);
            }
            Method::Unblocked => {
                tracing::info!(endpoint = %self.connection.endpoint, "the broker takes messages again");
                self.set_blocked(false);
            }
            Method::ChannelFlow { active } => {
                self.set_blocked(!active);
                Writer(&mut self.out).method(super::connect::CHANNEL, 20, 21, |w| w.u8(u8::from(active)));
            }
            _ => {}
        }
        Ok(())
    }

    fn set_blocked(&mut self, blocked: bool) {
        self.connection.blocked = blocked;
        self.status.sink_blocked.store(blocked, Relaxed);
    }

    /// A return has no delivery tag but all properties, comes before the message's own ack, and in publish order.
    fn finish_return(&mut self) -> Result<(), AmqpError> {
        let Some(returned) = self.returning.take_if(|r| r.remaining == 0) else { return Ok(()) };
        let addressing = &self.addressing;
        let found = self.window.returned(|message| {
            // An id above 255 bytes (a dead letter's) is not on the wire.
            returned.id.as_ref().is_none_or(|id| *id == message.id.0.as_bytes())
                && addressing.exchange(message) == returned.exchange
                && addressing.routing_key(message).is_ok_and(|key| key == returned.routing_key)
        });
        let Some(index) = found else {
            let id = String::from_utf8_lossy(returned.id.as_deref().unwrap_or_default()).into_owned();
            return Err(AmqpError::UnknownReturn(id));
        };
        let Return { code, exchange, routing_key, .. } = returned;
        let id = self.window.message(index).id.clone();
        let reason = if exchange.is_empty() {
            format!(
                "the broker has no queue `{routing_key}` ({code}): make it, or correct the routing key; the event then goes through"
            )
        } else {
            format!(
                "no queue is bound to exchange `{exchange}` for routing key `{routing_key}` ({code}): bind one, for example \
                 rabbitmqadmin declare binding source='{exchange}' destination=QUEUE routing_key='{routing_key}'; the event \
                 then goes through"
            )
        };
        self.rejected.push(Rejection { index, id, reason });
        Ok(())
    }

    /// Everything before the offender is stored, nothing after it is (observed); the text often says which one it is.
    fn channel_closed(&mut self, close: Close) -> AmqpError {
        let addressing = &self.addressing;
        let window = &self.window;
        let only = |fits: &dyn Fn(&tailwater_core::Message) -> bool| {
            let mut fitting = window.open_indexes().filter(|i| fits(window.message(*i)));
            fitting.next().filter(|_| fitting.next().is_none())
        };
        let offender = match blame(&close, addressing.exchange.as_deref()) {
            Blame::Nobody => return AmqpError::Channel(close),
            // Any message of this length is refused, so the first one still open is the one.
            Blame::BodyLength(length) => {
                window.open_indexes().find(|i| addressing.body(window.message(*i)).len() == length)
            }
            Blame::Exchange(exchange) => only(&|m| addressing.exchange(m) == exchange),
            Blame::Address { exchange, routing_key } => {
                only(&|m| addressing.exchange(m) == exchange && addressing.routing_key(m) == Ok(&routing_key))
            }
            Blame::Someone => only(&|_| true),
        };
        match offender.or_else(|| only(&|_| true)) {
            Some(index) => {
                let id = self.window.message(index).id.clone();
                self.window.reject(index);
                let reason = format!("the broker refuses it: {} {}{}", close.code, close.text, advice(&close));
                self.rejected.push(Rejection { index, id, reason });
                AmqpError::OneRefused(close)
            }
            None => AmqpError::SomeoneRefused { open: self.window.open(), close },
        }
    }

    fn deadline(&self) -> Instant {
        let heartbeat = self.connection.heartbeat;
        let mut at = Instant::now() + Duration::from_secs(3600);
        if !heartbeat.is_zero() {
            at = at.min(self.wrote_at + heartbeat / 2);
            at = at.min(self.suspected_at.map_or(self.heard_at + 2 * heartbeat, |t| t + LAST_WORDS));
        }
        if let Some(nacked) = self.nacked_at {
            at = at.min(nacked + NACK_LINGER);
        }
        if let Some((failed, _)) = &self.write_failed {
            at = at.min(*failed + LAST_WORDS);
        }
        at
    }

    /// A deadline has passed: heartbeat due, or patience at its end.
    fn tick(&mut self) -> Result<(), AmqpError> {
        let now = Instant::now();
        if let Some((_, error)) = self.write_failed.take_if(|(at, _)| now >= *at + LAST_WORDS) {
            return Err(error);
        }
        let heartbeat = self.connection.heartbeat;
        if heartbeat.is_zero() {
            return Ok(());
        }
        match self.suspected_at {
            Some(at) if now >= at + LAST_WORDS => return Err(AmqpError::Silent(now - self.heard_at)),
            None if now >= self.heard_at + 2 * heartbeat => self.suspected_at = Some(now),
            _ => {}
        }
        if now >= self.wrote_at + heartbeat / 2 {
            // With bytes waiting the socket is full: a heartbeat behind them would say nothing.
            if self.out.is_empty() {
                self.out.extend_from_slice(&frame::HEARTBEAT);
            }
            self.wrote_at = now;
        }
        Ok(())
    }

    /// Nacks come before the acks of earlier messages (observed): what is stored is learnt first, then the lane starts over.
    fn nacks_are_in(&self) -> bool {
        self.nacked_at.is_some_and(|at| self.window.open() == 0 || Instant::now() >= at + NACK_LINGER)
    }

    async fn advance(&mut self) -> Result<(), AmqpError> {
        let deadline = self.deadline();
        match timeout_at(deadline, poll_fn(|cx| self.poll_io(cx))).await {
            Ok(moved) => moved,
            Err(_) => self.tick(),
        }
    }
}

fn advice(close: &Close) -> &'static str {
    match close.code {
        406 if close.text.contains("message size") => " (raise `max_message_size` in rabbitmq.conf, or send less)",
        404 => " (declare the exchange; the event then goes through)",
        403 => " (grant the right; the event then goes through)",
        _ => "",
    }
}

#[async_trait]
impl Publisher for RabbitmqPublisher {
    fn push(&mut self, slice: Slice) {
        self.window.push(slice);
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.dead {
            return Err(Failure::retry("this publisher has failed and is to be dropped"));
        }
        loop {
            if self.failed.is_none() {
                self.fill();
            }
            let durable = self.window.take_durable();
            if durable > 0 || !self.rejected.is_empty() {
                return Ok(Settled { durable, rejected: std::mem::take(&mut self.rejected) });
            }
            if self.failed.is_none() && self.nacks_are_in() {
                self.failed = Some(AmqpError::Nacked { count: self.window.nacked() });
            }
            if let Some(error) = self.failed.take() {
                self.dead = true;
                return Err(classify(error, &self.connection.identity));
            }
            self.failed = self.advance().await.err();
        }
    }

    fn release(&mut self, index: u64) {
        self.window.release(index);
    }

    async fn close(self: Box<Self>) {
        let mut this = *self;
        // In the middle of a frame, or after an error, there is nothing left to say.
        if this.out.is_empty() && this.failed.is_none() && !this.dead && this.write_failed.is_none() {
            this.connection.say_goodbye().await;
        }
    }
}

impl Drop for RabbitmqPublisher {
    fn drop(&mut self) {
        if self.connection.blocked {
            self.status.sink_blocked.store(false, Relaxed);
        }
        self.status.sink_seen.clear();
    }
}
