//! One lane's path to the cluster (rules P1–P6 of `tailwater_core::seams`).
//!
//! ```text
//!   push ─▶ backlog ─fill─▶ librdkafka ─delivery─▶ window ─▶ Settled
//!              │ topic unknown: look it up, meanwhile nothing passes
//!              └ too large, no such topic or partition: rejected before it is sent
//! ```
//! A delivery that fails ends the publisher before anything behind it can pass (`enable.gapless.guarantee`); the lane sends
//! everything unsettled again, in order. Alone in flight, a message that is to blame is a rejection.

use crate::failure::{KafkaProblem, blames_message, classify, rejection};
use crate::outlet::{Backlog, Outlet, Sent};
use crate::producer::is_echo;
use crate::window::Window;
use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode as Code;
use tailwater_core::{Failure, Publisher, Rejection, Settled, Slice};

pub struct KafkaPublisher {
    outlet: Outlet,
    backlog: Backlog,
    window: Window,
    rejected: Vec<Rejection>,
    failed: Option<KafkaProblem>,
    dead: bool,
}

impl KafkaPublisher {
    pub fn new(outlet: Outlet) -> Self {
        let (backlog, window) = (Backlog::default(), Window::default());
        KafkaPublisher { outlet, backlog, window, rejected: vec![], failed: None, dead: false }
    }

    /// Hands to the client library what may travel now.
    fn fill(&mut self) -> Result<(), KafkaProblem> {
        while self.backlog.waits() {
            let next = self.backlog.next;
            let (slice, offset) = self.backlog.find(next);
            let messages = slice.messages.clone();
            for message in &messages[offset..] {
                let index = self.backlog.next;
                match self.outlet.send(message, index, self.window.open(), &self.backlog)? {
                    Sent::Yes => self.window.sent(index),
                    Sent::No(reason) => {
                        self.window.reject(index);
                        self.rejected.push(Rejection { index, id: message.id.clone(), reason });
                    }
                    Sent::Wait => return Ok(()),
                }
                self.backlog.next += 1;
            }
        }
        Ok(())
    }

    /// Takes in what the client library reported.
    fn absorb(&mut self) {
        let (deliveries, broken) = self.outlet.deliveries();
        for (index, outcome) in deliveries {
            match outcome {
                None => self.window.delivered(index as u64),
                Some(code) => self.refused(index as u64, code),
            }
        }
        if broken && self.failed.as_ref().is_none_or(KafkaProblem::is_echo) {
            self.failed = self.outlet.broken();
        }
    }

    /// A delivery failed: for the message's own fault if it is alone, else nobody knows whose.
    fn refused(&mut self, index: u64, code: Code) {
        let (slice, offset) = self.backlog.find(index);
        let message = &slice.messages[offset];
        let topic = self.outlet.topic_of(message);
        let alone = self.window.open() == 1 && !self.backlog.waits();
        if blames_message(code) && alone && self.failed.is_none() {
            let reason = rejection(code, topic, &self.outlet.shared.identity);
            self.rejected.push(Rejection { index, id: message.id.clone(), reason });
            self.window.reject(index);
            self.failed = Some(KafkaProblem::OneRefused(code));
        } else if self.failed.as_ref().is_none_or(KafkaProblem::is_echo) && !(self.failed.is_some() && is_echo(code)) {
            self.failed = Some(KafkaProblem::Delivery { topic: topic.to_string(), code });
        }
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn push(&mut self, slice: Slice) {
        self.window.push(slice.messages.len());
        self.backlog.push(slice);
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        if self.dead {
            return Err(Failure::retry("this publisher has failed and is to be dropped"));
        }
        loop {
            self.absorb();
            if self.failed.is_none() {
                self.failed = self.fill().err();
                self.outlet.refresh();
            }
            let durable = self.window.take_durable();
            self.backlog.settle(durable);
            if durable > 0 || !self.rejected.is_empty() {
                return Ok(Settled { durable, rejected: std::mem::take(&mut self.rejected) });
            }
            if let Some(problem) = self.failed.take() {
                self.dead = true;
                return Err(classify(problem, &self.outlet.shared.identity));
            }
            self.failed = self.outlet.wait(self.backlog.waits()).await.err();
        }
    }

    fn release(&mut self, index: u64) {
        self.window.release(index);
    }
}
