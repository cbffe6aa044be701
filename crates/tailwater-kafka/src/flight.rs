//! What both kinds of publisher have on its way: pushed, handed to the client library, settled, refused. Whose fault a failed
//! delivery is, is decided here.

use crate::failure::{KafkaProblem, blames_message, classify, rejection};
use crate::outlet::{Backlog, Outlet};
use crate::producer::is_echo;
use crate::window::Window;
use rdkafka::error::RDKafkaErrorCode as Code;
use tailwater_core::{Failure, MessageId, Rejection, Settled, Slice};

pub struct Flight {
    pub outlet: Outlet,
    pub backlog: Backlog,
    pub window: Window,
    rejected: Vec<Rejection>,
    pub failed: Option<KafkaProblem>,
    dead: bool,
}

impl Flight {
    pub fn new(outlet: Outlet) -> Self {
        let (backlog, window) = (Backlog::default(), Window::default());
        Flight { outlet, backlog, window, rejected: vec![], failed: None, dead: false }
    }

    pub fn push(&mut self, slice: Slice) {
        self.window.push(slice.messages.len());
        self.backlog.push(slice);
    }

    /// P5: an error for who drives it all the same.
    pub fn alive(&self) -> Result<(), Failure> {
        if self.dead { Err(Failure::retry("this publisher has failed and is to be dropped")) } else { Ok(()) }
    }

    /// A message that must not be published as it is.
    pub fn reject(&mut self, index: u64, id: MessageId, reason: String) {
        self.rejected.push(Rejection { index, id, reason });
        self.window.reject(index);
    }

    /// A delivery failed: for the message's own fault if it is alone, else nobody knows whose. True: its own.
    pub fn refused(&mut self, index: u64, code: Code) -> bool {
        let (slice, offset) = self.backlog.find(index);
        let message = &slice.messages[offset];
        let topic = self.outlet.topic_of(message);
        let alone = self.window.open() == 1 && !self.backlog.waits();
        if blames_message(code) && alone && self.failed.is_none() {
            let (id, reason) = (message.id.clone(), rejection(code, topic, &self.outlet.shared.identity));
            self.reject(index, id, reason);
            self.failed = Some(KafkaProblem::OneRefused(code));
            return true;
        }
        if self.failed.as_ref().is_none_or(KafkaProblem::is_echo) && !(self.failed.is_some() && is_echo(code)) {
            self.failed = Some(KafkaProblem::Delivery { topic: topic.to_string(), code });
        }
        false
    }

    /// The client library gave up for good: that is the reason, unless a better one is known.
    pub fn broken(&mut self) {
        if self.failed.as_ref().is_none_or(KafkaProblem::is_echo) {
            self.failed = self.outlet.broken();
        }
    }

    /// What is to be reported (P6: before an error).
    pub fn report(&mut self) -> Option<Settled> {
        let durable = self.window.take_durable();
        self.backlog.settle(durable);
        (durable > 0 || !self.rejected.is_empty())
            .then(|| Settled { durable, rejected: std::mem::take(&mut self.rejected) })
    }

    /// The end of this publisher, once something has failed.
    pub fn end(&mut self) -> Result<(), Failure> {
        let Some(problem) = self.failed.take() else { return Ok(()) };
        self.dead = true;
        Err(classify(problem, &self.outlet.shared.identity))
    }
}
